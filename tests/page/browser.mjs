// The status page in chromium, driven over its DevTools protocol (node's own WebSocket, no packages).
// Arguments: the page's address, the mock's admin address, a folder for the pictures, axe-core's script (optional).
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, existsSync, writeFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [page, mock, pictures, axe] = process.argv.slice(2);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const profile = mkdtempSync(join(tmpdir(), 'page-'));
const browser = spawn(process.env.CHROMIUM ?? 'chromium', ['--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-port=0', `--user-data-dir=${profile}`, 'about:blank'], { stdio: 'ignore' });

async function until(what, test, limit = 15000) {
  const end = Date.now() + limit;
  for (;;) {
    const value = await test();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${limit} ms: ${what}`);
    await sleep(50);
  }
}

// The instance's own events, as they come.
async function followEvents(tell) {
  const answer = await fetch(new URL('/v1/events', page), { headers: { 'last-event-id': 'none' } });
  let rest = '';
  for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + part).split('\n');
    rest = lines.pop();
    for (const line of lines) if (line.startsWith('data: ')) tell(JSON.parse(line.slice(6)));
  }
}

async function main() {
  const port = await until('chromium', () => existsSync(join(profile, 'DevToolsActivePort')) && readFileSync(join(profile, 'DevToolsActivePort'), 'utf8').split('\n')[0]);
  const [tab] = await until('a tab', async () => (await (await fetch(`http://127.0.0.1:${port}/json`)).json()).filter((one) => one.type === 'page'));
  const socket = new WebSocket(tab.webSocketDebuggerUrl);
  await new Promise((done) => { socket.onopen = done; });
  let last = 0;
  const waiting = new Map();
  const complaints = [];
  const hosts = new Set();
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.id) { waiting.get(message.id)?.(message); return; }
    if (message.method === 'Log.entryAdded') complaints.push(message.params.entry.text);
    if (message.method === 'Runtime.exceptionThrown') complaints.push(message.params.exceptionDetails.text);
    if (message.method === 'Network.requestWillBeSent' && !message.params.request.url.startsWith('data:')) hosts.add(new URL(message.params.request.url).host);
  };
  const send = (method, params = {}) => new Promise((done, failed) => {
    const id = ++last;
    waiting.set(id, (answer) => answer.error ? failed(new Error(`${method}: ${answer.error.message}`)) : done(answer.result));
    socket.send(JSON.stringify({ id, method, params }));
  });
  const text = async (expression) => (await send('Runtime.evaluate', { expression, returnByValue: true })).result.value;
  for (const domain of ['Log', 'Runtime', 'Network', 'Page']) await send(`${domain}.enable`);
  await send('Page.navigate', { url: page });
  await until('the page is live', async () => (await text('document.getElementById("live")?.textContent')) === 'live');

  // A zone is lost and comes back, and the page shows it by itself, within a second of the instance's own event.
  const changes = [];
  followEvents((event) => { if (event.event === 'endpoint.state') changes.push(event); });
  const healthy = () => text('document.querySelector("section .badge")?.textContent');
  await until('3/3 healthy', async () => (await healthy()) === '3/3 healthy');
  for (const [mode, shown] of [['refuse', '2/3 healthy'], ['ok', '3/3 healthy']]) {
    await fetch(`http://${mock}/zones/us-east-1a?mode=${mode}`, { method: 'POST' });
    const began = Date.now();
    await until(`${shown} after ${mode}`, async () => (await healthy()) === shown);
    const seen = Date.now();
    // What comes back is used from its first good probe on.
    const is = (one) => (mode === 'ok' ? one.from : one.to) === 'down';
    const change = await until(`the event of ${mode}`, () => changes.find((one) => is(one) && Date.parse(one.timestamp) >= began));
    const late = seen - Date.parse(change.timestamp);
    if (late > 1000) throw new Error(`"${shown}" came ${late} ms after its event`);
    console.log(`ok    ${mode}: "${shown}" is shown ${seen - began} ms after the fault, ${late} ms after the event`);
  }

  // What axe-core finds: rules that are broken, and where. It runs beside the page's own scripts, where its policy does not hold.
  const { frameTree } = await send('Page.getFrameTree');
  const { executionContextId: contextId } = await send('Page.createIsolatedWorld', { frameId: frameTree.frame.id });
  if (axe) await send('Runtime.evaluate', { contextId, expression: readFileSync(axe, 'utf8') });
  const findings = async (width) => {
    if (!axe) return [];
    const expression = 'axe.run().then(({ passes, violations, incomplete }) => JSON.stringify({ passes: passes.length, violations, incomplete }))';
    const { result, exceptionDetails } = await send('Runtime.evaluate', { contextId, expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(`axe-core: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
    const { passes, violations, incomplete } = JSON.parse(result.value);
    if (passes < 10) throw new Error(`axe-core looked at ${passes} rules only`);
    // What it cannot decide counts as well, but for contrast in a table that is cut off: that is decided in a wide window, where none is.
    const undecided = incomplete.filter((one) => one.id !== 'color-contrast' || width > 1000);
    return [...violations, ...undecided].map((one) => `${one.id}: ${one.nodes.map((node) => node.target.join(' ')).join(', ')}`);
  };

  // Nothing is wider than the window, and every control can be reached by keyboard.
  for (const [width, height] of [[360, 1600], [1280, 1200]]) {
    for (const scheme of ['light', 'dark']) {
      await send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: false });
      await send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] });
      await sleep(300);
      const wide = await text('document.documentElement.scrollWidth');
      if (wide > width) throw new Error(`the page is ${wide} wide in a window of ${width}`);
      const found = await findings(width);
      if (found.length) throw new Error(`axe-core at ${width} px, ${scheme}: ${found.join('; ')}`);
      const { data } = await send('Page.captureScreenshot', { format: 'png' });
      writeFileSync(join(pictures, `status-${width}-${scheme}.png`), Buffer.from(data, 'base64'));
    }
  }
  const unnamed = await text('[...document.querySelectorAll("button,a,svg,[tabindex]")].filter((e) => !(e.textContent.trim() || e.getAttribute("aria-label"))).length');
  if (unnamed) throw new Error(`${unnamed} elements have no name`);
  if (complaints.length) throw new Error(`the browser complains: ${complaints.join('; ')}`);
  if (hosts.size !== 1) throw new Error(`requests to ${[...hosts].join(' ')}`);
  if (axe) console.log('ok    axe-core finds nothing at 360 and 1280 px, light and dark');
  console.log('ok    no complaint of the browser, no request to another host');
}

let code = 0;
try { await main(); } catch (error) { console.log(`WRONG ${error.message}`); code = 1; }
browser.kill();
await sleep(300);
rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
process.exit(code);
