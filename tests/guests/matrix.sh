# First program of the matrix' image: Redis in the background, then the web server, which ends the run.
/usr/bin/redis-server --bind 0.0.0.0 --port 6379 --protected-mode no --save '' --dir /tmp --logfile /tmp/redis.log &
exec /matrix/http 80
