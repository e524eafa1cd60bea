-- Loads an entity without taking it over. KEYS: meta, rows, snapshot. Answers as activate does.
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq')
return {tonumber(meta[1] or '0'), tonumber(meta[2] or '0'),
        redis.call('GET', KEYS[3]), redis.call('LRANGE', KEYS[2], 0, -1)}
