-- Requests of a mixed load: a share of users who are new to the cache, the rest from a hot set.
-- Settings by environment: COLD (share of new users), HOT (size of the hot set), FIRST (first new user).
local cold_share = tonumber(os.getenv("COLD") or "0.3")
local hot_users = tonumber(os.getenv("HOT") or "1000")
local next_cold = tonumber(os.getenv("FIRST") or "1001")
local headers = { ["Content-Type"] = "application/json" }
math.randomseed(next_cold)

request = function()
  local user
  if math.random() < cold_share then
    user = next_cold
    next_cold = next_cold + 1
  else
    user = math.random(1, hot_users)
  end
  return wrk.format("POST", "/recommend", headers, '{"user_id": ' .. user .. ', "k": 10}')
end

done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.3f, "p50_ms": %.3f, "p99_ms": %.3f, "refused": %d, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
