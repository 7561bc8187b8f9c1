-- One atomic operation of the ledger on one entry. KEYS[1]: the entry, a hash.
-- ARGV: operation, token of the claim, fingerprint, milliseconds of a lease, until (ms since the epoch), bytes.
local key, op, token, fingerprint = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
if op == 'ping' then return {'ok'} end
local lease_ms, until_ms, bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
-- A rate limit lasts as long as its key lives: the longest wait that was set. For this operation `until` is a duration.
if op == 'rest' then
  if redis.call('PTTL', key) < until_ms then
    redis.call('HSET', key, 'rests', '1')
    redis.call('PEXPIRE', key, string.format('%.0f', until_ms))
  end
  return {'ok'}
end
if op == 'rests' then
  local left = redis.call('PTTL', key)
  if left > 0 then return {'rests', string.format('%.0f', left)} end
  return {'free'}
end
-- Only the server's clock decides if a lease has expired, because the clocks of workers differ.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local e = redis.call('HMGET', key, 'fingerprint', 'token', 'lease_until', 'note', 'note_until', 'result')
local holder = e[2] and tonumber(e[3]) > now and e[2]
local note_until = e[4] and tonumber(e[5]) > now and tonumber(e[5]) or 0
local note = note_until > 0 and e[4]
local result = e[6]
local other_body = (holder or note or result) and e[1] ~= fingerprint

if op == 'read' then
  if result or note then return {'found', result or note} end
  return {'free'}
end

-- An entry lives until the latest expiry time of its contents.
local function expire(at)
  redis.call('PEXPIREAT', key, string.format('%.0f', at))
end

local function hold()
  local lease_until = now + lease_ms
  redis.call('HSET', key, 'fingerprint', fingerprint, 'token', token, 'lease_until', string.format('%.0f', lease_until))
  expire(math.max(lease_until, note_until))
end

if op == 'claim' then
  if other_body then return {'conflict'} end
  if result then return {'recorded', result} end
  if holder and holder ~= token then return {'busy'} end
  if not note then redis.call('DEL', key) end
  hold()
  if note then return {'free', note} end
  return {'free'}
end

if op == 'release' or op == 'abandon' then
  if e[2] == token and not result then
    if op == 'abandon' and note then
      redis.call('HDEL', key, 'token', 'lease_until')
      expire(note_until)
    else
      redis.call('DEL', key)
    end
  end
  return {'ok'}
end

-- A late renewal does not restore a claim that has ended.
if op == 'renew' then
  if e[2] ~= token then return {'lost'} end
  hold()
  return {'ok'}
end

-- The operations below need the claim. An expired claim may continue if no other claim has started since, also after
-- Redis lost all data.
if result then
  -- The same record again: the first response was lost.
  if op == 'record' and not other_body and result == bytes then return {'ok'} end
  return {'lost'}
end
if other_body or (holder and holder ~= token) then return {'lost'} end
-- A note of another claim may be about other links, even if that claim has ended.
if op == 'note' and note and e[2] ~= token then return {'lost'} end

if op == 'record' then
  redis.call('DEL', key)
  redis.call('HSET', key, 'fingerprint', fingerprint, 'result', bytes)
  expire(until_ms)
else -- note
  note_until = until_ms
  redis.call('HSET', key, 'note', bytes, 'note_until', string.format('%.0f', until_ms))
  hold()
end
return {'ok'}
