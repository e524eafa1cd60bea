-- The newest positions in parts of an index, all as of one moment: a session that goes from one
-- state to another is in one of them. KEYS: index. ARGV: the number from each part, the first
-- position and their end, then the prefix of each part's members.
local found = {}
for at = 4, #ARGV do
  local part = ARGV[at]
  local members = redis.call('ZREVRANGEBYLEX', KEYS[1], '(' .. part .. ARGV[3],
                             '[' .. part .. ARGV[2], 'LIMIT', 0, ARGV[1])
  for _, member in ipairs(members) do found[#found + 1] = member:sub(#part + 1) end
end
return found
