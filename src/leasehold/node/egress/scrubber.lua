-- Keeps an injected credential from coming back. Runs in Envoy as an upstream HTTP filter, after the injector.
--
-- On the request it learns the credential from the header that was injected, and takes the agent's own credentials out
-- of the query. On the response it overwrites each form of the credential with as many '*', in headers, trailers and
-- body, chunk by chunk. What it cannot look into is answered with 502; an error of its own never lets a byte through.
-- docs/scrubbing.md says what is covered and why. Called with the settings of one cluster:
--
--   folder   where forms.lua lies, with a slash at the end
--   header   the name of the injected header
--   before   how many bytes of its value stand before the credential, `after` how many behind it
--   basic    whether the credential is the password of RFC 7617 in base64
--   query    the query parameter to which the header's value moves, if that is the delivery
--
-- Everything here lives once per cluster and worker; nothing is shared, and nothing is logged but that an error was.

local settings = ...
-- The loops that are worth compiling are in forms.lua; here traces would cost memory, and time at every call into Envoy.
require("jit").off(true, true)
local forms = dofile(settings.folder .. "forms.lua")
local hits, open_tail = forms.hits, forms.open_tail

local band = require("bit").band
local byte, char, find, gsub, lower, rep, sub = string.byte, string.char, string.find, string.gsub, string.lower, string.rep, string.sub
local concat, max, min = table.concat, math.max, math.min

local WINDOW = 65536 -- bytes that are copied out of Envoy's buffer at a time
local KEPT = 4 -- credentials that are remembered over a rotation
local LEVELS = 2 -- escapes within escapes that are undone
-- A beginning that is held back and then is none tells a patient agent one more byte of the secret. So they are counted,
-- and after so many what is held back no longer depends on the secret.
local NEAR_MISSES = 6
local ALL = math.huge

---------------------------------------------------------------------------------------------------------------------
-- The credentials of this cluster: `matcher` looks for the last few of them.

local known, matcher, short, near_misses = {}, nil, 0, 0

local function learn(value)
  for i = 1, #known do
    if known[i] == value then return end
  end
  table.insert(known, 1, value)
  known[KEPT + 1] = nil
  local found, shortest = {}, ALL
  for _, one in ipairs(known) do
    local secret = sub(one, settings.before + 1, #one - settings.after)
    if settings.basic then
      local token = secret
      secret = forms.unbase64(token):match("^[^:]*:(.*)$") or ""
      if #secret < forms.PIECE then found[token] = true end
    end
    if #secret < forms.SHORTEST_DERIVED then found[one] = true end
    if #secret > 0 then forms.add_forms(found, secret) end
    shortest = min(shortest, #secret)
  end
  matcher = forms.new_matcher(found)
  -- So many bytes may go out before it is known whether they begin a form: holding them would stall honest streams.
  short = min(3, math.floor(shortest / 8))
  near_misses = 0
end

local function masked(text, from, to, ranges)
  if not ranges then return sub(text, from + 1, to) end
  table.sort(ranges, function(a, b) return a[1] < b[1] end)
  local out, at = {}, from
  for _, range in ipairs(ranges) do
    local start, stop = max(range[1], at), min(range[2], to)
    if start < stop then
      -- Between two pieces in base64 stands a character that belongs to both.
      if #out > 0 and start == at + 1 and find(text, "^[%w+/_-]", start) then start = at end
      out[#out + 1] = sub(text, at + 1, start)
      out[#out + 1] = rep("*", stop - start)
      at = stop
    end
  end
  out[#out + 1] = sub(text, at + 1, to)
  return concat(out)
end

local function scrubbed(text)
  local ranges = hits(matcher, text, nil, LEVELS)
  return ranges and masked(text, 0, #text, ranges) or text
end

-- Where to stop when holding must tell nothing about the secret: no form has a line feed in it.
local function blind_tail(text)
  local window = max(0, #text - 6 * matcher.longest)
  local _, line = find(sub(text, window + 1), ".*\n")
  local start = window + (line or 0)
  if start < #text then return start, ALL end
end

-- What may go out now of `data`, the next part of a body. `allowance`: length up to which a beginning may go out.
local function feed(stream, data, allowance)
  local carry, sent = stream.carry, stream.sent
  local text = carry == "" and data or carry .. data
  local ranges = hits(matcher, text, nil, LEVELS)
  -- What follows a match (or the one character between two pieces) is more likely than not its continuation.
  local edge = stream.follows or -1
  for _, range in ipairs(ranges or {}) do
    edge = max(edge, range[2] + 1)
    -- What was held back was no near miss if it has become the beginning of a form.
    if stream.near and range[1] == 0 then near_misses, stream.near = near_misses - 1, nil end
  end
  local start, length
  if allowance < ALL then
    if near_misses < NEAR_MISSES then
      start, length = open_tail(matcher, text, LEVELS)
    else
      start, length = blind_tail(text)
    end
  end
  if start ~= 0 then stream.near = nil end
  if not ranges and not start and carry == "" then
    stream.follows = edge >= #data and edge - #data or nil
    return data
  end
  local stop = #text
  if start and (length > allowance or start == edge or start == edge - 1) then stop = max(start, sent) end
  if stream.pending then
    ranges = ranges or {}
    for _, range in ipairs(stream.pending) do ranges[#ranges + 1] = range end
    stream.pending = nil
  end
  local rest = start or #text
  stream.follows = edge >= rest and edge - rest or nil
  stream.carry = start and sub(text, start + 1) or ""
  stream.sent = start and max(0, stop - start) or 0
  stream.length = length
  if not ranges and sent == 0 and stop == #text then return text end
  for _, range in ipairs(start and ranges or {}) do
    -- A match that reaches into what is kept: its rest stays masked whatever comes.
    if range[2] > start then
      stream.pending = stream.pending or {}
      table.insert(stream.pending, { max(0, range[1] - start), range[2] - start })
    end
  end
  return masked(text, sent, stop, ranges)
end

local function held(stream)
  return #stream.carry - stream.sent
end

-- To be called when what is held back now can be seen from outside. A beginning counts once while it grows.
local function count_near_miss(stream)
  if stream.length and stream.length < ALL and not stream.near and held(stream) > 0 then
    near_misses, stream.near = near_misses + 1, true
  end
end

---------------------------------------------------------------------------------------------------------------------
-- Bodies. Each reader takes one chunk of `n` bytes and returns what replaces it, or nil if it stays as it is.

-- What is known of a body between its chunks. Small, because each response has one: what is false or nil is left out.
local function new_state(read)
  return { carry = "", sent = 0, read = read }
end

-- `state.left`: bytes still to come, when the response says so.
local function read_plain(state, chunk, n)
  local ended = false
  if state.left then
    state.left = state.left - n
    ended = state.left <= 0
  end
  if n <= WINDOW then
    local data = n > 0 and chunk:getBytes(0, n) or ""
    local out = feed(state, data, ended and ALL or short)
    count_near_miss(state)
    if out ~= data then return out end
    return nil
  end
  local outs, same, offset = {}, true, 0
  repeat
    local data = chunk:getBytes(offset, min(WINDOW, n - offset))
    offset = offset + #data
    local out = feed(state, data, offset < n and 0 or ended and ALL or short)
    same = same and out == data
    outs[#outs + 1] = out
  until offset >= n
  count_near_miss(state)
  if not same then return concat(outs) end
end

-- Everything from here on is unreadable: as many '*' as bytes came and were held back.
local function read_broken(state, _, n)
  local lost = held(state) + (state.control and held(state.control) or 0)
  state.carry, state.sent, state.control = "", 0, nil
  return rep("*", lost + n)
end

-- Frames. `state.frame`: bytes of the current one to come, `state.head`: what there is of its header.

-- Takes the header of the next frame off `data` (from `at`) into state.head; true when its `size` bytes are there.
local function take_head(state, data, at, size)
  if #state.head >= size then return true, at end
  local part = sub(data, at, at + size - #state.head - 1)
  state.head = state.head .. part
  return #state.head >= size, at + #part
end

-- The payload of a frame, of which `state.frame` bytes are to come: what goes out of it, and where the next one begins.
local function take_payload(state, stream, data, at, final)
  local part = sub(data, at, at + state.frame - 1)
  state.frame = state.frame - #part
  local out = feed(stream, part, state.frame == 0 and final and ALL or short)
  if state.frame == 0 and held(stream) > 0 then
    -- The next header stands between: what may be a beginning cannot wait for its end.
    count_near_miss(stream)
    out = out .. rep("*", held(stream))
    stream.sent = #stream.carry
  end
  return out, at + #part
end

-- gRPC (and gRPC-Web): five bytes of header, then a message; nothing is held back between messages, since trailers end
-- the stream without a last chunk.
local function read_grpc(state, chunk, n)
  local data, outs, at = chunk:getBytes(0, n), {}, 1
  state.frame, state.head = state.frame or 0, state.head or ""
  while at <= n do
    if state.frame == 0 then
      local before, whole = #state.head, nil
      whole, at = take_head(state, data, at, 5)
      local flag = byte(state.head)
      if flag ~= 0 and flag ~= 128 then
        -- Compressed, or no gRPC at all.
        state.read = read_broken
        return concat(outs) .. read_broken(state, nil, #state.head - before + n - at + 1)
      end
      outs[#outs + 1] = sub(state.head, before + 1)
      if whole then
        local _, a, b, c, d = byte(state.head, 1, 5)
        state.frame, state.head = ((a * 256 + b) * 256 + c) * 256 + d, ""
      end
    else
      outs[#outs + 1], at = take_payload(state, state, data, at, true)
    end
  end
  count_near_miss(state)
  local out = concat(outs)
  if out ~= data then return out end
end

-- RFC 6455, section 5.2. Extensions were not offered, so that payloads are what they seem.
local function read_websocket(state, chunk, n)
  local data, outs, at = chunk:getBytes(0, n), {}, 1
  state.frame, state.head = state.frame or 0, state.head or ""
  while at <= n do
    if state.frame == 0 then
      local before, whole = #state.head, nil
      whole, at = take_head(state, data, at, 2)
      local first, second = byte(state.head, 1, 2)
      local size = second == 126 and 4 or second == 127 and 10 or 2
      if whole and size > 2 then whole, at = take_head(state, data, at, size) end
      if band(first, 112) ~= 0 or (second or 0) > 127 then
        -- An extension, or a mask where there must be none.
        state.read = read_broken
        return concat(outs) .. read_broken(state, nil, #state.head - before + n - at + 1)
      end
      outs[#outs + 1] = sub(state.head, before + 1)
      if whole then
        local length = second
        if size > 2 then
          length = 0
          for i = 3, size do length = length * 256 + byte(state.head, i) end
        end
        state.frame, state.head, state.final = length, "", first >= 128
        -- A control frame may stand between the frames of a message and is a text of its own.
        state.control = band(first, 8) ~= 0 and new_state() or nil
        if length == 0 and state.final and not state.control then state.carry, state.sent = "", 0 end
      end
    else
      outs[#outs + 1], at = take_payload(state, state.control or state, data, at, state.final)
    end
  end
  count_near_miss(state.control or state)
  local out = concat(outs)
  if out ~= data then return out end
end

---------------------------------------------------------------------------------------------------------------------
-- The request: learn the credential, move it into the query if it belongs there, take the agent's own out of it.

-- Names without anything but letters and digits, in lower case: api_key, api-key, apiKey, %61pi.key[] are one.
local CREDENTIAL_PARAMETERS = {}
for name in ([[
  key apikey apitoken apisecret appkey applicationkey apptoken accesskey accesskeyid accesstoken auth authkey
  authorization authtoken awsaccesskeyid bearer bearertoken clientsecret credential googleaccessid idtoken jobtoken jwt
  oauthconsumerkey oauthsignature oauthtoken passwd password personalaccesstoken privatekey privatetoken refreshtoken
  secretkey securitytoken sig signature subscriptionkey token usertoken xamzcredential xamzsecuritytoken xamzsignature
  xapikey xgoogcredential xgoogsignature
]]):gmatch("%w+") do
  CREDENTIAL_PARAMETERS[name] = true
end

local function bare_name(name)
  name = gsub(name, "%%(%x%x)", function(digits) return char(tonumber(digits, 16)) end)
  return lower((gsub(name:match("^[^%[%z]*"), "[^%w]", "")))
end

local own_parameter = settings.query and bare_name(settings.query)

-- The query without parameters that carry a credential.
local function clean(query)
  local kept, changed = {}, false
  for name, rest, separator in query:gmatch("([^&;=]*)([^&;]*)([&;]?)") do
    local bare = bare_name(name)
    if CREDENTIAL_PARAMETERS[bare] or (bare == own_parameter and bare ~= nil and name ~= "") then
      changed = true
    else
      kept[#kept + 1] = name .. rest .. separator
    end
  end
  if not changed then return query end
  return (gsub(concat(kept), "[&;]$", ""))
end

local function percent(text)
  return (gsub(text, "[^%w%-._~]", function(c) return ("%%%02X"):format(byte(c)) end))
end

local function error_body(code, message, hint)
  return ('{"error": {"code": "%s", "message": "%s", "hint": "%s"}}'):format(code, message, hint)
end

local function learn_and_clean(handle)
  local headers = handle:headers()
  local value = headers:get(settings.header)
  if value ~= known[1] then learn(value) end
  local path = headers:get(":path")
  local mark = path and find(path, "?", 1, true)
  if not (mark or settings.query) then return end
  local query = mark and sub(path, mark + 1) or ""
  local kept = clean(query)
  if settings.query then
    local own = percent(settings.query) .. "=" .. percent(sub(value, settings.before + 1, #value - settings.after))
    kept = kept == "" and own or kept .. "&" .. own
    headers:remove(settings.header)
  end
  if kept ~= query then headers:replace(":path", sub(path, 1, (mark or 0) - 1) .. (kept == "" and "" or "?" .. kept)) end
end

---------------------------------------------------------------------------------------------------------------------
-- The response.

-- Every call into Envoy costs more than what is done here with its answer: so the headers are read in one go.
local FIELDS = {}
for name in (":status accept-ranges content-encoding content-length content-type grpc-encoding upgrade"):gmatch("%S+") do
  FIELDS[name] = true
end

-- Masks every form in the header (or trailer) map; returns the values of FIELDS.
local function scrub_headers(map)
  local shortest, fields, found = matcher.m, {}, false
  for name, value in pairs(map) do
    if FIELDS[name] then fields[name] = value end
    if #value >= shortest and hits(matcher, value, nil, LEVELS) or #name >= shortest and hits(matcher, name, nil, 0) then
      found = true
    end
  end
  if not found then return fields end
  local list, touched = {}, {}
  for name, value in pairs(map) do
    list[#list + 1] = { name, scrubbed(value) }
    if scrubbed(name) ~= name then
      touched[name] = "drop"
    elseif list[#list][2] ~= value then
      touched[name] = touched[name] or "mask"
    end
  end
  for name in pairs(touched) do map:remove(name) end
  for _, header in ipairs(list) do
    if touched[header[1]] == "mask" then map:add(header[1], header[2]) end
  end
  return fields
end

local function remove_all(map)
  local names = {}
  for name in pairs(map) do names[#names + 1] = name end
  for _, name in ipairs(names) do
    if sub(name, 1, 1) ~= ":" then map:remove(name) end
  end
end

-- A response that was refused: the explanation, then nothing.
local function read_refused(state)
  local body = state.body
  state.body = ""
  return body
end

local function refuse(map, code, message, hint)
  remove_all(map)
  map:replace(":status", "502")
  map:add("content-type", "application/json")
  map:add("x-leasehold-decision", "error; code=" .. code)
  local state = new_state(read_refused)
  state.body = error_body(code, message, hint)
  return state
end

local function has_body(handle, status)
  return status ~= "204" and status ~= "304" and handle:requestHeaders():get(":method") ~= "HEAD"
end

-- Looks at the response's headers; returns the state with which its body is read.
local function begin(handle)
  local map = handle:headers()
  local fields = scrub_headers(map)
  if fields["accept-ranges"] then map:replace("accept-ranges", "none") end
  local status, kind = fields[":status"], fields["content-type"]
  if status == "101" then
    return new_state(lower(fields["upgrade"] or "") == "websocket" and read_websocket or read_plain)
  end
  local encoding, grpc = fields["content-encoding"], nil
  if kind and find(kind, "^[aA][pP][pP][lL][iI][cC][aA][tT][iI][oO][nN]/[gG][rR][pP][cC]") then
    kind = lower(kind)
    grpc = not find(kind, "-text", 1, true)
    encoding = encoding or grpc and fields["grpc-encoding"]
  end
  if encoding and lower(encoding) ~= "identity" and has_body(handle, status) then
    return refuse(map, "response-encoded", "The upstream compressed its answer although it was asked not to.",
      "Such an answer cannot be searched for the credential. Ask for it in another form, or without compression.")
  end
  local state = new_state(grpc and read_grpc or read_plain)
  state.left = tonumber(fields["content-length"])
  return state
end

local function failed(handle)
  handle:logErr("the scrubber failed; what it did not see was not passed on")
end

local DEFECT = "This is a defect in Leasehold; please report it."

local function on_request(handle)
  if pcall(learn_and_clean, handle) then return end
  failed(handle)
  local decision = { [":status"] = "502", ["content-type"] = "application/json" }
  decision["x-leasehold-decision"] = "error; code=scrubber-failed"
  handle:respond(decision, error_body("scrubber-failed", "The request could not be prepared.", DEFECT))
end

-- If the chunk is still the last one it can be written to; if trailers followed, what was held back is lost.
local function flush(state, chunk, out, n)
  chunk:setBytes((out or chunk:getBytes(0, n)) .. feed(state, "", ALL))
  if state.near then near_misses, state.near = near_misses - 1, nil end
end

local function on_response(handle)
  local fine, state = pcall(begin, handle)
  if not fine then
    failed(handle)
    state = refuse(handle:headers(), "scrubber-failed", "The answer could not be searched for the credential.", DEFECT)
  end
  local next_chunk = handle:bodyChunks()
  local chunk = next_chunk()
  while chunk do
    local n = chunk:length()
    local good, out = pcall(state.read, state, chunk, n)
    if not good then
      failed(handle)
      state.read = read_broken
      out = read_broken(state, chunk, n)
    end
    if out then chunk:setBytes(out) end
    -- Envoy's codecs let no body be longer than it said; only its end is to come, or trailers.
    if state.left and state.left <= 0 then break end
    local following = next_chunk()
    if not following and held(state) > 0 then pcall(flush, state, chunk, out, n) end
    chunk = following
  end
  local trailers = handle:trailers()
  if trailers and not pcall(scrub_headers, trailers) then
    failed(handle)
    remove_all(trailers)
  end
end

return { request = on_request, response = on_response }
