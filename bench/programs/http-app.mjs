/** The application of M5 and M6: an ordinary node:http server with a small answer. */
import http from 'node:http';

const BODY = JSON.stringify({ name: 'bench', text: 'a small answer of an ordinary service' });

http
  .createServer((_request, response) => {
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': BODY.length });
    response.end(BODY);
  })
  .listen(80, '0.0.0.0', () => console.log('ready'));
