"""Run by the end-to-end suite: threads, subprocesses, pipes, asyncio, sockets, signals, files; ends with code 5."""
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading

lock = threading.Lock()
count = 0


def work():
    global count
    for _ in range(5000):
        with lock:
            count += 1


threads = [threading.Thread(target=work) for _ in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print("threads", count)

child = subprocess.run([sys.executable, "-S", "-c", "print('child', 6 * 7); import sys; sys.exit(3)"], stdout=subprocess.PIPE, timeout=120)
print("subprocess", child.stdout, child.returncode)

backwards = "import sys; print(sys.stdin.read().strip()[::-1].upper())"
child = subprocess.run([sys.executable, "-S", "-c", backwards], input=b"good morning\n", stdout=subprocess.PIPE, timeout=120)
print("pipe", child.stdout)


async def sleeper(n):
    await asyncio.sleep(0.01 * (n % 5))
    return 1


async def all_sleepers():
    return sum(await asyncio.gather(*(sleeper(n) for n in range(20))))


print("asyncio", asyncio.run(all_sleepers()))


async def echo(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()


async def talk(port, n):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"%d\n" % n)
    answer = await reader.readline()
    writer.close()
    return int(answer) == n


async def sockets():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    good = sum(await asyncio.gather(*(talk(port, n) for n in range(50))))
    server.close()
    return good


print("sockets", asyncio.run(sockets()))

seen = []
signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
os.kill(os.getpid(), signal.SIGUSR1)
print("signal", *seen)

with tempfile.TemporaryDirectory() as folder:
    for n in range(100):
        with open(os.path.join(folder, str(n)), "w") as f:
            f.write(str(n))
    print("files", sum(open(os.path.join(folder, n)).read() == n for n in os.listdir(folder)))

a, b = socket.socketpair()
a.sendall(b"mixed ok")
print(b.recv(100).decode())
sys.stdout.flush()
sys.exit(5)
