-- Take an entity over. KEYS: meta, rows, snapshot, and that of the reason if the scope is stopped,
-- which then is the answer. Answers epoch, seq, snapshot, rows.
local stopped = redis.call('GET', KEYS[4])
if stopped then return stopped end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HDEL', KEYS[1], 'creator')
return {epoch, tonumber(redis.call('HGET', KEYS[1], 'seq') or '0'),
        redis.call('GET', KEYS[3]), redis.call('LRANGE', KEYS[2], 0, -1)}
