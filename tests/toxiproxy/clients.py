#!/usr/bin/env python3
"""The published Python client's calls: clients.py API TARGET (both HOST:PORT)."""
import socket, sys
from toxiproxy import Toxiproxy
from toxiproxy.exceptions import NotFound, ProxyExists

api, target = sys.argv[1:3]
server = Toxiproxy()
server.update_api_consumer(api.split(":")[0], int(api.split(":")[1]))
assert server.running() and server.version()
proxy = server.create(upstream=target, name="py")
try:
    server.create(upstream=target, name="py")
    raise AssertionError("made twice")
except ProxyExists:
    pass
host, port = proxy.listen.split(":")


def status():
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
        return client.recv(12)


assert status().endswith(b"200")
proxy.add_toxic(type="latency", attributes={"latency": 20, "jitter": 5})
proxy.add_toxic(name="up", type="bandwidth", stream="upstream", toxicity=0.5, attributes={"rate": 1000})
assert set(proxy.toxics()) == {"latency_downstream", "up"}
toxic = proxy.get_toxic("up")
assert (toxic.type, toxic.stream, toxic.toxicity, toxic.attributes) == ("bandwidth", "upstream", 0.5, {"rate": 1000})
assert status().endswith(b"200")
assert proxy.destroy_toxic("up")
try:
    proxy.destroy_toxic("up")
    raise AssertionError("destroyed twice")
except NotFound:
    pass
with proxy.down():
    try:
        status()
        raise AssertionError("it answers")
    except ConnectionRefusedError:
        pass
assert status().endswith(b"200")
assert server.reset()
assert not proxy.toxics()
made = server.populate([{"name": "py", "upstream": target, "listen": proxy.listen}, {"name": "py2", "upstream": target, "listen": "127.0.0.1:0"}])
assert [one.name for one in made] == ["py2"]
assert {"py", "py2"} <= set(server.proxies())
assert server.get_proxy("none") is None
for name in ["py", "py2"]:
    assert server.destroy(server.get_proxy(name))
assert not {"py", "py2"} & set(server.proxies())
print("every call as expected")
