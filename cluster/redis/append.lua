-- Appends to many entities of one workspace. First the key that holds the reason if the workspace is
-- stopped, which is then the answer; next the key of its brake. For each entity, two keys: its own,
-- from which those of its rows, messages and audit rows follow, and its family's; and arguments: id,
-- epoch, after, creator, row, n, n messages, n, n audit rows, summary ('' = none).
-- A further key, if there is one, is the workspace's index of root sessions, and every three further
-- arguments change it: the index of the append they belong to, the states the session left, and its
-- new entry, which is its state and position. Or they change the brake: the index of the append they
-- belong to, '!', and the brake's value if that row is written.
-- Without a row (row = '') nothing is written, and the answer says whether the epoch is current.
-- An entity that is refused does not hinder the others. Answers with the brake ('' = none), and one
-- of OK, FENCED, GAP for each entity.
local stopped = redis.call('GET', KEYS[1])
if stopped then return stopped end
local answers, written, arg = {redis.call('GET', KEYS[2]) or ''}, {}, 1
local function take() arg = arg + 1; return ARGV[arg - 1] end
local function push(key, count, write)
  for _ = 1, count do
    local value = take()
    if write then redis.call('RPUSH', key, value) end
  end
end
for first = 3, #KEYS - 1, 2 do
  local meta, answer, write = KEYS[first], 'OK', false
  local id, epoch, after, creator, row = take(), take(), tonumber(take()), take(), take()
  local stored = redis.call('HMGET', meta, 'epoch', 'seq', 'creator')
  local seq = tonumber(stored[2] or '0')
  if not stored[1] and creator ~= '' then
    redis.call('HSET', meta, 'epoch', 1, 'creator', creator)
    stored[1], stored[3] = '1', creator
  end
  if tonumber(stored[1] or '0') < tonumber(epoch) then
    answer = 'GAP'
  elseif stored[1] ~= epoch or (creator ~= '' and stored[3] ~= creator) then
    answer = 'FENCED'
  elseif row == '' then
    if seq ~= after then answer = 'GAP' end
  elseif seq == after then
    write = true
    redis.call('HSET', meta, 'seq', after + 1)
    redis.call('RPUSH', meta .. ':j', row)
  elseif seq ~= after + 1 then
    answer = 'GAP'
  end
  push(meta .. ':m', tonumber(take()), write)
  push(meta .. ':a', tonumber(take()), write)
  local summary = take()
  if write and summary ~= '' then redis.call('HSET', KEYS[first + 1], id, summary) end
  answers[#answers + 1] = answer
  written[#answers] = write
end
while arg <= #ARGV do
  local at, others, member = tonumber(take()) + 1, take(), take()
  if others == '!' then
    if written[at] then
      redis.call('SET', KEYS[2], member)
      answers[1] = member
    end
  elseif answers[at] == 'OK' then -- of a repeated row, too: it is the entity's last, and changes nothing
    for state in others:gmatch('.') do redis.call('ZREM', KEYS[#KEYS], state .. member:sub(2)) end
    redis.call('ZADD', KEYS[#KEYS], 0, member)
  end
end
return answers
