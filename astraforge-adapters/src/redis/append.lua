-- Appends to a stream if its newest id is the expected one, and answers with the newest id, as it is then.
--
-- KEYS[1] the stream
-- ARGV[1] the expected newest id
-- ARGV[2] about how many entries are kept
-- ARGV[3] after how many seconds it is removed, 0 for never
-- ARGV[4...] pairs of an id and a text

local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
local newest = '0-0'
if not info.err then
    for place = 1, #info, 2 do
        if info[place] == 'last-generated-id' then newest = info[place + 1] end
    end
elseif redis.call('EXISTS', KEYS[1]) == 1 then
    return info
end
if newest ~= ARGV[1] then return newest end

for place = 4, #ARGV, 2 do
    newest = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], ARGV[place], 'data', ARGV[place + 1])
end
if ARGV[3] == '0' then
    redis.call('PERSIST', KEYS[1])
else
    redis.call('EXPIRE', KEYS[1], ARGV[3])
end
return newest
