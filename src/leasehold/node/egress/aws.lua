-- Before a request is signed anew (AWS Signature Version 4): the agent's own signature goes, wherever it stands, and a
-- body that was signed in chunks gets its plain form, because nobody here could sign the chunks.
-- Source: Amazon S3, "Authenticating requests" and "Signature calculations for chunked uploads".

local SIGNED = {
  "authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256", "x-amz-decoded-content-length",
  "x-amz-trailer", "x-amz-sdk-checksum-algorithm", "x-amz-user-agent", "amz-sdk-invocation-id", "amz-sdk-request",
}
local LINE_MAX = 4096

local function unsigned_query(path)
  local mark = path:find("?", 1, true)
  if not mark then return path end
  local kept = {}
  for part in path:sub(mark + 1):gmatch("[^&]+") do
    local name = part:match("^[^=]*"):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end):lower()
    local own = name:find("^x%-amz%-") or name == "awsaccesskeyid" or name == "signature" or name == "expires"
    if not own then kept[#kept + 1] = part end
  end
  return path:sub(1, mark - 1) .. (#kept > 0 and "?" .. table.concat(kept, "&") or "")
end

local function without_chunked(encoding)
  local kept = {}
  for word in encoding:gmatch("[^,%s]+") do
    if word:lower() ~= "aws-chunked" then kept[#kept + 1] = word end
  end
  return table.concat(kept, ", ")
end

-- The body without the framing of its chunks; nil when it is not well-formed, or not as long as it says.
local function decoded(body, length)
  local out, total, at = {}, 0, 1
  while true do
    local stop = body:find("\r\n", at, true)
    if not stop or stop - at > LINE_MAX then return nil end
    local digits = body:sub(at, stop - 1):match("^(%x+)$") or body:sub(at, stop - 1):match("^(%x+);")
    if not digits or #digits > 8 then return nil end
    local size = tonumber(digits, 16)
    if size == 0 then break end
    local data = body:sub(stop + 2, stop + 1 + size)
    if #data ~= size or body:sub(stop + 2 + size, stop + 3 + size) ~= "\r\n" then return nil end
    out[#out + 1], total, at = data, total + size, stop + 4 + size
  end
  return total == length and table.concat(out) or nil
end

local function refuse(handle)
  handle:respond({[":status"] = "400", ["content-type"] = "application/json",
    ["x-leasehold-decision"] = "error; code=request-malformed"}, MALFORMED)
end

local function prepare(handle)
  local headers = handle:headers()
  local payload = headers:get("x-amz-content-sha256") or ""
  local length = headers:get("x-amz-decoded-content-length") or ""
  local encoding = headers:get("content-encoding") or ""
  headers:replace(":path", unsigned_query(headers:get(":path")))
  for _, name in ipairs(SIGNED) do headers:remove(name) end
  if payload:sub(1, 10) ~= "STREAMING-" then return true end
  if not length:match("^%d+$") or #length > 12 then return false end
  encoding = without_chunked(encoding)
  if encoding == "" then headers:remove("content-encoding") else headers:replace("content-encoding", encoding) end
  -- Whole, and measured: with another length than its own a body would be read as the next request.
  local buffer = handle:body()
  local plain = decoded(buffer and buffer:getBytes(0, buffer:length()) or "", tonumber(length))
  if not plain then return false end
  buffer:setBytes(plain)
  handle:headers():replace("content-length", tostring(#plain))  -- what was got before the wait is not valid any more
  return true
end

-- What goes wrong here must not let the request go on.
function envoy_on_request(handle)
  local done, well = pcall(prepare, handle)
  if not (done and well) then refuse(handle) end
end
