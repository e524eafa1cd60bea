-- File sessions under the ends of their ids. KEYS: what the buckets' names begin with, one hash tag
-- for all of them. ARGV: place, then ids of 16 bytes.
for at = 2, #ARGV do
  local high, low = ARGV[at]:byte(15, 16)
  local bucket = ('%s:%03x'):format(KEYS[1], high % 16 * 256 + low)
  redis.call('HSET', bucket, ARGV[at], ARGV[1])
end
