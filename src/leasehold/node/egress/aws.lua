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

-- Each piece that comes in, what is to go out. `held` is a line that is not complete.
local function decoder()
  local held, left, state = "", 0, "size"
  return function(piece)
    local out, at = {}, 1
    piece, held = held .. piece, ""
    while at <= #piece do
      if state == "data" then
        local part = piece:sub(at, at + left - 1)
        out[#out + 1] = part
        at, left = at + #part, left - #part
        if left == 0 then state = "end" end
      elseif state == "trailer" then
        break
      else
        local stop = piece:find("\r\n", at, true)
        if not stop then
          held = piece:sub(at)
          if #held > LINE_MAX then error("a line without end") end
          break
        end
        local line = piece:sub(at, stop - 1)
        at = stop + 2
        if state == "end" then
          if line ~= "" then error("a chunk is longer than it says") end
          state = "size"
        else
          local size = line:match("^(%x+)") or error("no chunk")
          if #size > 12 then error("a chunk too large") end
          left = tonumber(size, 16)
          state = left == 0 and "trailer" or "data"
        end
      end
    end
    return table.concat(out)
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local payload = headers:get("x-amz-content-sha256") or ""
  local length = headers:get("x-amz-decoded-content-length")
  local encoding = headers:get("content-encoding") or ""
  headers:replace(":path", unsigned_query(headers:get(":path")))
  for _, name in ipairs(SIGNED) do headers:remove(name) end
  if payload:sub(1, 10) ~= "STREAMING-" then return end
  if not (length and length:match("^%d+$")) then
    handle:respond({[":status"] = "400", ["content-type"] = "application/json",
      ["x-leasehold-decision"] = "error; code=request-malformed"}, MALFORMED)
    return
  end
  encoding = without_chunked(encoding)
  if encoding == "" then headers:remove("content-encoding") else headers:replace("content-encoding", encoding) end
  headers:replace("content-length", length)
  local decode = decoder()
  for chunk in handle:bodyChunks() do
    local plain = decode(chunk:getBytes(0, chunk:length()))
    chunk:setBytes(plain)
  end
end
