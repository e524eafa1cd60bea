-- Replaces the rows up to a sequence number. KEYS: meta, rows, snapshot. ARGV: epoch, seq, data.
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'seq')
if tonumber(meta[1] or '0') < tonumber(ARGV[1]) then return 'GAP' end
if meta[1] ~= ARGV[1] then return 'FENCED' end
local newer = tonumber(meta[2] or '0') - tonumber(ARGV[2])
if newer < 0 then return 'GAP' end
if newer > redis.call('LLEN', KEYS[2]) then return 'OK' end -- it comes late: a newer one is there
redis.call('SET', KEYS[3], ARGV[3])
if newer == 0 then redis.call('DEL', KEYS[2]) else redis.call('LTRIM', KEYS[2], -newer, -1) end
return 'OK'
