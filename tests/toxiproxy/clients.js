// The published Node client's calls: clients.js API TARGET (both HOST:PORT).
const assert = require("assert");
const net = require("net");
const { Toxiproxy } = require("toxiproxy-node-client");

const [api, target] = process.argv.slice(2);
const status = (listen) => new Promise((resolve, reject) => {
  const [host, port] = listen.split(":");
  const client = net.connect(+port, host, () => client.write("GET / HTTP/1.0\r\nHost: x\r\n\r\n"));
  client.once("data", (data) => { client.destroy(); resolve(+data.toString().split(" ")[1]); });
  client.once("error", reject);
  client.once("end", () => reject(new Error("ended")));
});

(async () => {
  const server = new Toxiproxy(`http://${api}`);
  assert.ok(await server.getVersion());
  const proxy = await server.createProxy({ name: "node", listen: "127.0.0.1:0", upstream: target });
  await assert.rejects(server.createProxy({ name: "node", listen: "127.0.0.1:0", upstream: target }));
  assert.strictEqual(await status(proxy.listen), 200);
  const toxic = await proxy.addToxic({ name: "slow", type: "latency", stream: "downstream", toxicity: 1, attributes: { latency: 100, jitter: 0 } });
  let start = Date.now();
  assert.strictEqual(await status(proxy.listen), 200);
  assert.ok(Date.now() - start >= 95);
  await toxic.update({ attributes: { latency: 300, jitter: 0 }, toxicity: 1 });
  start = Date.now();
  assert.strictEqual(await status(proxy.listen), 200);
  assert.ok(Date.now() - start >= 295);
  assert.strictEqual((await proxy.getToxic("slow")).attributes.latency, 300);
  await toxic.remove();
  await assert.rejects(proxy.getToxic("slow"));
  const off = await proxy.update({ enabled: false, listen: proxy.listen, upstream: proxy.upstream });
  assert.strictEqual(off.enabled, false);
  await assert.rejects(status(proxy.listen));
  await server.reset();
  assert.strictEqual((await server.get("node")).enabled, true);
  const made = await server.populate([{ name: "node", listen: proxy.listen, upstream: target, enabled: true }, { name: "node2", listen: "127.0.0.1:0", upstream: target, enabled: true }]);
  assert.deepStrictEqual(Object.keys(made).sort(), ["node", "node2"]);
  const all = await server.getAll();
  for (const name of ["node", "node2"]) await all[name].remove();
  await assert.rejects(server.get("node"));
  console.log("every call as expected");
})().catch((error) => { console.error(error); process.exit(1); });
