-- Takes an entity over. KEYS: meta, rows, snapshot, and the key that holds the reason if the
-- workspace is stopped, which is then the answer. ARGV: the newest version that the caller reads,
-- or nothing. Answers epoch, seq, snapshot, rows. The epoch is not raised if a newer one wrote it.
local stopped = redis.call('GET', KEYS[4])
if stopped then return stopped end
local snapshot, rows = redis.call('GET', KEYS[3]), redis.call('LRANGE', KEYS[2], 0, -1)
local last, at = rows[#rows], 22 -- the 20 bytes of its mark, the head of a list, the version
if not last then last, at = snapshot or '', 30 end -- a snapshot's number comes before its mark
local version, newest, epoch = last:byte(at) or 0, tonumber(ARGV[1]), nil
if newest and version > newest then
  epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
else
  epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  redis.call('HDEL', KEYS[1], 'creator')
end
return {epoch, tonumber(redis.call('HGET', KEYS[1], 'seq') or '0'), snapshot, rows}
