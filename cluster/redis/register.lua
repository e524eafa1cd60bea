-- Files sessions under the ends of their ids. KEYS: the prefix of the buckets' names, one hash tag
-- for all of them. ARGV: their place, and their ids concatenated, 16 bytes each.
local ids = ARGV[2]
for last = 16, #ids, 16 do
  local high, low = ids:byte(last - 1, last)
  local bucket = ('%s:%03x'):format(KEYS[1], high % 16 * 256 + low)
  redis.call('HSET', bucket, ids:sub(last - 15, last), ARGV[1])
end
