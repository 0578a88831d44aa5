// The pages of the framing proof, by Node. Says its port.
const http = require('http');
const PAUSE = 700, TEXT = 'x'.repeat(3000), HALF = TEXT.slice(1500);

function paused(response, headers) {
  response.writeHead(200, headers);
  response.write(HALF);
  setTimeout(() => response.end(HALF), PAUSE);
}

const server = http.createServer((request, response) => {
  const body = [];
  request.on('data', (piece) => body.push(piece));
  request.on('end', () => {
    const whole = () => response.writeHead(200, { 'Content-Length': TEXT.length }).end(TEXT);
    switch (request.url) {
      case '/length': return whole();
      case '/slow': return setTimeout(whole, PAUSE);
      case '/chunked': response.write(HALF); return response.end(HALF);
      case '/paused': return paused(response, { 'Content-Length': TEXT.length });
      case '/paused-chunked': return paused(response, {});
      case '/none': return response.writeHead(204).end();
      case '/unchanged': return response.writeHead(304, { ETag: '"x"' }).end();
      case '/echo': {
        const echo = Buffer.concat(body);
        return response.writeHead(200, { 'Content-Length': echo.length }).end(echo);
      }
      default: return response.writeHead(404, { 'Content-Length': 4 }).end('none');
    }
  });
});
server.keepAliveTimeout = 60000;
server.listen(0, '127.0.0.1', () => console.log(`PORT=${server.address().port}`));
