-- File sessions under the ends of their ids. KEYS: what the buckets' names begin with, one hash tag
-- for all of them. ARGV: their place, and their ids in a row, of 16 bytes each.
local ids = ARGV[2]
for last = 16, #ids, 16 do
  local high, low = ids:byte(last - 1, last)
  local bucket = ('%s:%03x'):format(KEYS[1], high % 16 * 256 + low)
  redis.call('HSET', bucket, ids:sub(last - 15, last), ARGV[1])
end
