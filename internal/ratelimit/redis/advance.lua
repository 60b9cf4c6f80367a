local interval, depth = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local paid = tonumber(redis.call('GET', KEYS[1]) or now)
paid = math.min(math.max(paid, now), now + depth)
local over = paid + interval - now - depth
if over > 0 then
  return over
end
paid = paid + interval
redis.call('SET', KEYS[1], string.format('%.0f', paid), 'PX', math.ceil((paid - now) / 1000) + 1)
return 0
