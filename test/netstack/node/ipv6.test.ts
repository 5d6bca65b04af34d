/** Programs of node:net on a stack with both families. */
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { systemClock, systemRandom } from '../../../src/common/index.ts';
import type { StackSocket } from '../../../src/netstack/index.ts';
import { cidr, installNetOverride, MemoryLink, macAddress, Stack } from '../../../src/netstack/index.ts';
import { within } from '../../support/index.ts';

const ipv6 = suite('netstack/node/ipv6');
const V4 = '10.0.0.2';
const V6 = 'fd00::2';
const accepted: StackSocket[] = [];
const [link, otherEnd] = MemoryLink.pair(systemClock);
const stack = new Stack({
  clock: systemClock,
  random: systemRandom,
  link,
  mac: macAddress('02:00:00:00:00:02'),
  addresses: [cidr(`${V4}/24`), cidr(`${V6}/64`)],
  detectDuplicates: false,
});
const installed = installNetOverride(stack, { onConnection: (_server, socket) => accepted.push(socket) });

ipv6.after(() => {
  installed.uninstall();
  installed.face.close();
  link.close();
  otherEnd.close();
});

const closed = (server: net.Server) => new Promise((done) => server.close(done));

async function text(url: string): Promise<string> {
  const [response] = (await once(http.get(url, { agent: false }), 'response')) as [http.IncomingMessage];
  let body = '';
  for await (const chunk of response) body += chunk;
  return body;
}

for (const host of [undefined, '::']) {
  ipv6(
    `http on ${host ?? 'any address'} is reached by both families, which the sockets tell`,
    within(async () => {
      const server = http.createServer(({ socket }, response) =>
        response.end(JSON.stringify([socket.remoteAddress, socket.remoteFamily, socket.localAddress])),
      );
      await new Promise<void>((done) => server.listen({ port: 8080, host }, done));
      assert.equal(server.address(), { address: '::', family: 'IPv6', port: 8080 });
      assert.equal(JSON.parse(await text(`http://[${V6}]:8080/`)), [V6, 'IPv6', V6]);
      assert.equal(JSON.parse(await text(`http://${V4}:8080/`)), [V4, 'IPv4', V4]);
      assert.equal(JSON.parse(await text(`http://[::ffff:10.0.0.2]:8080/`)), [V4, 'IPv4', V4]);
      await closed(server);
    }),
  );
}

ipv6(
  'ipv6Only leaves the port to an IPv4 server',
  within(async () => {
    const six = net.createServer((socket) => socket.end('six'));
    const four = net.createServer((socket) => socket.end('four'));
    six.listen({ port: 9, host: '::', ipv6Only: true });
    await once(six, 'listening');
    four.listen({ port: 9, host: '0.0.0.0' });
    await once(four, 'listening');
    assert.equal(six.address(), { address: '::', family: 'IPv6', port: 9 });
    assert.equal(four.address(), { address: '0.0.0.0', family: 'IPv4', port: 9 });
    for (const [host, said] of [
      [V4, 'four'],
      [V6, 'six'],
    ] as const) {
      const [data] = (await once(net.connect({ port: 9, host }), 'data')) as [Buffer];
      assert.is(data.toString(), said);
    }
    const third = net.createServer();
    third.listen({ port: 9, host: V6 });
    const [error] = (await once(third, 'error')) as [NodeJS.ErrnoException];
    assert.is(error.code, 'EADDRINUSE');
    await closed(six);
    await closed(four);
  }),
);

ipv6(
  'a link-local address with a zone; a closed port; nobody there is somebody else’s route',
  within(async () => {
    const server = net.createServer((socket) => socket.end('local'));
    server.listen(10);
    await once(server, 'listening');
    const linkLocal = net.connect({ port: 10, host: 'fe80::ff:fe00:2%net0' });
    const [data] = (await once(linkLocal, 'data')) as [Buffer];
    assert.is(data.toString(), 'local');
    await closed(server);
    const [refused] = (await once(net.connect({ port: 11, host: V6 }), 'error')) as [NodeJS.ErrnoException];
    assert.is(refused.message, `connect ECONNREFUSED ${V6}:11`);
  }),
);

ipv6(
  'a name with addresses of both families: the first one with a route',
  within(async () => {
    const server = net.createServer((socket) => socket.end(`${socket.localFamily}`));
    server.listen(12);
    await once(server, 'listening');
    const lookup: net.LookupFunction = (_host, _options, done) =>
      done(null, [
        { address: '2001:db8::1', family: 6 },
        { address: V6, family: 6 },
        { address: V4, family: 4 },
      ]);
    const [data] = (await once(net.connect({ port: 12, host: 'service.test', lookup }), 'data')) as [Buffer];
    assert.is(data.toString(), 'IPv6');
    await closed(server);
    const failure = Object.assign(new Error('no such name'), { code: 'ENOTFOUND' });
    const failing: net.LookupFunction = (_host, _options, done) => done(failure, []);
    const empty: net.LookupFunction = (_host, _options, done) => done(null, []);
    for (const nothing of [failing, empty]) {
      const nobody = net.connect({ port: 12, host: 'nobody.test', lookup: nothing });
      const [error] = (await once(nobody, 'error')) as [NodeJS.ErrnoException];
      assert.is(error.code, 'ENOTFOUND');
    }
  }),
);

ipv6.run();
