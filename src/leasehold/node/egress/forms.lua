-- What gives a credential away, and where it stands in a text: forms, matcher, escapes, beginnings.
-- Pure functions over strings; scrubber.lua uses them. docs/scrubbing.md says what is covered and why.

local bit = require("bit")
local ffi = require("ffi")
local band, bor, bxor, lshift, rshift = bit.band, bit.bor, bit.bxor, bit.lshift, bit.rshift
local byte, char, find, gsub, lower, reverse, sub, upper =
  string.byte, string.char, string.find, string.gsub, string.lower, string.reverse, string.sub, string.upper
local concat, max, min = table.concat, math.max, math.min
local to_bytes, new_bytes, new_offsets = ffi.typeof("const uint8_t *"), ffi.typeof("uint8_t[?]"), ffi.typeof("int32_t[?]")

local PIECE, PIECE_OF_LONG, LONG = 18, 96, 144 -- a secret is looked for in pieces; lengths in bytes, multiples of three
local SHORTEST_DERIVED = 8 -- an encoded form that is shorter would hit honest text

local PERCENT, BACKSLASH, AMPERSAND, SEMICOLON, HASH = byte("%\\&;#", 1, 5)

---------------------------------------------------------------------------------------------------------------------
-- Forms: the byte strings that give a secret away.

local HEX = ffi.new("int8_t[256]", -1)
for digit = 0, 15 do
  HEX[byte(("0123456789abcdef"):sub(digit + 1, digit + 1))] = digit
  HEX[byte(("0123456789ABCDEF"):sub(digit + 1, digit + 1))] = digit
end
local BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function hex(text)
  return (gsub(text, ".", function(c) return ("%02x"):format(byte(c)) end))
end

-- The characters of base64 (RFC 4648) that `text` alone determines when it starts `shift` bytes after a group's start.
local function base64(text, shift)
  local out, bits, have = {}, 0, 0
  local skip = (8 * shift) % 6
  if skip > 0 then
    -- The first character is shared with what stands before: leave it out.
    bits, have = 0, skip
  end
  local first = true
  for i = 1, #text do
    bits, have = bor(lshift(band(bits, 0xFF), 8), byte(text, i)), have + 8
    while have >= 6 do
      have = have - 6
      local value = band(rshift(bits, have), 63)
      if not (first and skip > 0) then out[#out + 1] = BASE64:sub(value + 1, value + 1) end
      first = false
    end
  end
  return concat(out)
end

local function unbase64(text)
  local out, bits, have = {}, 0, 0
  for i = 1, #text do
    local value = find(BASE64, sub(text, i, i), 1, true)
    if not value then break end
    bits, have = bor(lshift(band(bits, 0xFF), 6), value - 1), have + 6
    if have >= 8 then
      have = have - 8
      out[#out + 1] = char(band(rshift(bits, have), 255))
    end
  end
  return concat(out)
end

-- A secret in pieces, so that a part of it is found as well; the last piece ends where the secret ends.
local function pieces(secret)
  local length = #secret <= LONG and PIECE or PIECE_OF_LONG
  if #secret < length + 6 then return { secret } end
  local found = {}
  for start = 1, #secret - length, length do found[#found + 1] = sub(secret, start, start + length - 1) end
  found[#found + 1] = sub(secret, -length)
  return found
end

-- Adds the forms of `secret` to the set `forms`.
local function add_forms(forms, secret)
  for _, piece in ipairs(pieces(secret)) do
    for _, form in ipairs({ piece, lower(piece), upper(piece), reverse(piece), (gsub(piece, " ", "+")) }) do
      forms[form] = true
    end
    local derived = { hex(piece), upper(hex(piece)) }
    for shift = 0, 2 do
      local standard = base64(piece, shift)
      derived[#derived + 1] = standard
      derived[#derived + 1] = (gsub(standard, "[+/]", { ["+"] = "-", ["/"] = "_" }))
    end
    for _, form in ipairs(derived) do
      if #form >= SHORTEST_DERIVED then forms[form] = true end
    end
  end
end

---------------------------------------------------------------------------------------------------------------------
-- Matcher: all forms at once, by the last two bytes of their first `m` (Wu and Manber, 1994).

ffi.cdef("int memcmp(const void *, const void *, size_t);")

local function new_matcher(forms)
  local list, m, longest = {}, 32, 0
  for form in pairs(forms) do
    list[#list + 1] = form
    m, longest = min(m, #form), max(longest, #form)
  end
  local size, shift_by = 4096, 4
  if #list * m > 2048 then size, shift_by = 65536, 8 end
  local M = {
    m = m, longest = longest, mask = size - 1, by = shift_by, forms = list,
    skip = ffi.new("uint8_t[?]", size, m - 1), buckets = {}, heads = {}, short = {},
    alphabet = ffi.new("bool[256]"), may_end = ffi.new("bool[256]"),
  }
  -- A beginning ends with a byte of a form or with a part of an escape.
  for c in ("%\\&#;/\"'"):gmatch(".") do M.may_end[byte(c)] = true end
  for c in (sub(BASE64, 1, 62)):gmatch(".") do M.may_end[byte(c)] = true end
  for _, form in ipairs(list) do
    for i = 2, m do
      local block = band(bxor(lshift(byte(form, i - 1), shift_by), byte(form, i)), M.mask)
      M.skip[block] = min(M.skip[block], m - i)
      if i == m then
        M.buckets[block] = M.buckets[block] or {}
        table.insert(M.buckets[block], form)
      end
    end
    for i = 1, #form do
      M.alphabet[byte(form, i)] = true
      M.may_end[byte(form, i)] = true
    end
    M.heads[#M.heads + 1] = sub(form, 1, 4)
    for i = 1, 3 do M.short[sub(form, 1, i)] = true end
  end
  return M
end

-- The first form in the bytes p[from..n-1]: where it starts and how long it is (the longest one there), or nil.
local function first_form(M, p, n, from)
  local skip, mask, by, m = M.skip, M.mask, M.by, M.m
  local i = from + m - 1
  while i < n do
    local block = band(bxor(lshift(p[i - 1], by), p[i]), mask)
    local step = skip[block]
    if step == 0 then
      local start, length = i - m + 1, 0
      local bucket = M.buckets[block]
      for k = 1, #bucket do
        local form = bucket[k]
        if #form > length and start + #form <= n and ffi.C.memcmp(p + start, form, #form) == 0 then length = #form end
      end
      if length > 0 then return start, length end
      step = 1
    end
    i = i + step
  end
end

---------------------------------------------------------------------------------------------------------------------
-- Escapes: %41, \u0041, \x41, \/, &#65;, &#x41;, &amp; ... as encoders write them.

local NAMED = { amp = 38, lt = 60, gt = 62, quot = 34, apos = 39 }

local function hex_number(p, from, to)
  local value = 0
  for i = from, to do
    local digit = HEX[p[i]]
    if digit < 0 then return nil end
    value = value * 16 + digit
  end
  return value
end

local function unescape_entity(p, i, n)
  local stop = min(n, i + 9)
  local j = i + 1
  while j < stop and p[j] ~= SEMICOLON do
    local c = p[j]
    -- letters, digits and '#': what an entity is made of
    if not (c == HASH or (c >= 48 and c <= 57) or (c >= 65 and c <= 90) or (c >= 97 and c <= 122)) then return nil, 1 end
    j = j + 1
  end
  if j == n and n - i < 9 then return nil, 0 end
  if j == stop then return nil, 1 end
  local name = ffi.string(p + i + 1, j - i - 1)
  local value = NAMED[name]
  if not value then
    local digits = name:match("^#(%d+)$")
    value = digits and tonumber(digits) or tonumber(name:match("^#[xX](%x+)$") or "", 16)
  end
  if not value or value > 255 then return nil, 1 end
  return value, j - i + 1
end

-- The byte for which the escape at p[i] stands and its length; nil and 1 if it is none, nil and 0 if it is cut off at n.
local function unescape(p, i, n)
  local c, from, digits = p[i], i + 1, 2
  if c == AMPERSAND then return unescape_entity(p, i, n) end
  if c == BACKSLASH then
    -- JSON within JSON doubles the backslashes.
    while from < n and p[from] == BACKSLASH do from = from + 1 end
    if from >= n then return nil, 0 end
    local kind = p[from]
    if kind == 117 or kind == 120 then -- u, x
      from, digits = from + 1, kind == 117 and 4 or 2
    elseif from > i + 1 then
      return BACKSLASH, 2
    elseif kind == 47 or kind == 34 or kind == 39 then -- / " '
      return kind, 2
    else
      return nil, 1
    end
  end
  local value = hex_number(p, from, min(from + digits, n) - 1)
  if not value then return nil, 1 end
  if from + digits > n then return nil, 0 end
  if value > 255 then return nil, 1 end
  return value, from + digits - i
end

local function is_escape(c)
  return c == PERCENT or c == BACKSLASH or c == AMPERSAND
end

-- Whether an escape for the byte `value` is of interest: part of a form or, if there are more levels, of another escape.
local function matters(M, value, levels)
  return value and (M.alphabet[value] or (levels > 1 and is_escape(value)))
end

-- `text` with its escapes undone (those that matter), the offset of each byte of it in `text`, and where a cut-off escape
-- begins (or nil).
local function decode(M, text, levels)
  local n = #text
  local p = ffi.cast(to_bytes, text)
  local out, source = new_bytes(n + 1), new_offsets(n + 1)
  local i, j = 0, 0
  while i < n do
    local value, length = p[i], 1
    if is_escape(value) then
      local meant, taken = unescape(p, i, n)
      if taken == 0 then break end
      if matters(M, meant, levels) then value, length = meant, taken end
    end
    out[j], source[j] = value, i
    i, j = i + length, j + 1
  end
  source[j] = i
  return ffi.string(out, j), source, i < n and i or nil
end

local LEADS = { "%", "\\", "&" }

-- The offset of the next escape in `text` that matters or is cut off, or nil.
local function next_escape(M, text, p, from, levels)
  local n = #text
  local best
  for k = 1, #LEADS do
    local lead = LEADS[k]
    local at = find(text, lead, from + 1, true)
    while at and not (best and at - 1 >= best) do
      local value, length = unescape(p, at - 1, n)
      if length == 0 or matters(M, value, levels) then
        best = at - 1
        break
      end
      at = find(text, lead, at + 1, true)
    end
  end
  return best
end

-- Adds {start, stop} (offsets, half open, moved by `map`) of every form in `text` to `ranges`; returns it, or nil.
local function hits(M, text, ranges, levels, map)
  local n = #text
  local p = ffi.cast(to_bytes, text)
  local start, length = first_form(M, p, n, 0)
  while start do
    ranges = ranges or {}
    local stop = start + length
    ranges[#ranges + 1] = map and { map(start), map(stop) } or { start, stop }
    start, length = first_form(M, p, n, start + 1)
  end
  if levels == 0 then return ranges end
  local reach = 6 * M.longest
  local at = next_escape(M, text, p, 0, levels)
  while at do
    -- Every form that holds an escape between `at` and `at + reach` lies in this region.
    local from, to = max(0, at - reach), min(n, at + 2 * reach + 4096)
    local decoded, source = decode(M, sub(text, from + 1, to), levels)
    local function back(offset)
      offset = from + source[offset]
      return map and map(offset) or offset
    end
    ranges = hits(M, decoded, ranges, levels - 1, back)
    if to == n then break end
    at = next_escape(M, text, p, to - reach, levels)
  end
  return ranges
end

---------------------------------------------------------------------------------------------------------------------
-- Tails: the end of what came so far that may be the beginning of a form.

-- `open_tail` for text as it stands, without escapes.
local function plain_tail(M, text)
  local n = #text
  if not M.alphabet[byte(text, n)] then return nil end
  local start, length
  for i = min(3, n), 1, -1 do
    if M.short[sub(text, -i)] then
      start, length = n - i, i
      break
    end
  end
  local last = sub(text, 1 - M.longest)
  for k, form in ipairs(M.forms) do
    local at = find(last, M.heads[k], 1, true)
    while at do
      local candidate = #last - at + 1
      if candidate < #form and sub(form, 1, candidate) == sub(last, at) then
        if not length or candidate > length then start, length = n - candidate, candidate end
        break
      end
      at = find(last, M.heads[k], at + 1, true)
    end
  end
  return start, length
end

-- Offset and length (in decoded bytes) of the longest end of `text` that begins a form; nil if there is none.
local function open_tail(M, text, levels)
  local n = #text
  if n == 0 or not M.may_end[byte(text, n)] then return nil end
  local start, length = plain_tail(M, text)
  local last = sub(text, -6 * M.longest)
  if levels > 0 and (find(last, "%", 1, true) or find(last, "\\", 1, true) or find(last, "&", 1, true)) then
    local decoded, source, cut = decode(M, last, levels)
    local at, decoded_length = open_tail(M, decoded, levels - 1)
    if at then
      at = n - #last + source[at]
    elseif cut then
      at, decoded_length = n - #last + cut, 0
    end
    if at and (not start or at < start) then start, length = at, max(length or 0, decoded_length) end
  end
  return start, length
end

return {
  PIECE = PIECE, SHORTEST_DERIVED = SHORTEST_DERIVED,
  add_forms = add_forms, unbase64 = unbase64, new_matcher = new_matcher, hits = hits, open_tail = open_tail,
}
