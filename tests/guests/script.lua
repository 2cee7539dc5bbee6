-- Run by the end-to-end suite: computes, sorts, writes and reads a file, and ends with code 7.
local n, primes = 2000, 0
local sieve = {}
for i = 2, n do
  if not sieve[i] then
    primes = primes + 1
    for j = i * i, n, i do sieve[j] = true end
  end
end
print("primes " .. primes)

local t = {}
for i = 1, 5000 do t[i] = (i * 7919) % 10007 end
table.sort(t)
local sorted = true
for i = 2, #t do if t[i - 1] > t[i] then sorted = false end end
print("sorted " .. tostring(sorted))

local name = os.tmpname()
local f = assert(io.open(name, "w"))
for i = 1, 500 do f:write("line ", i, "\n") end
f:close()
local last
for line in io.lines(name) do last = line end
os.remove(name)
print("file " .. last)
print("argument " .. arg[1])

local co = coroutine.wrap(function() for i = 1, 10 do coroutine.yield(i) end end)
local sum = 0
for i = 1, 10 do sum = sum + co() end
print("coroutines " .. sum)
print("pcall " .. tostring((pcall(error, "thrown"))))
print("time " .. tostring(os.time() > 1600000000 and os.clock() >= 0))
os.exit(7)
