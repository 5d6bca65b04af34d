/**
 * Embodiment 2 in the small (Figs 22, 24-26): a server alters its address while clients have connections open. With the
 * change notice set, every packet the clients see still comes from the first address, and nothing is lost or reset.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { TcpConnection } from '../../../src/netstack/index.ts';
import { ChangeNotice, ipv4Address, TracerLink } from '../../../src/netstack/index.ts';
import { IP_B, twoStacks } from '../iface/two-stacks.ts';

const alter = suite('netstack/send/alter-under-connections');
const SECOND = ipv4Address('10.77.0.12');

for (const offload of [false, true]) {
  alter(`2202, 2204, back again: transfers go on both ways, segmentation offload ${offload}`, () => {
    const lines: string[] = [];
    const { clock, a, b } = twoStacks({
      segmentation: offload,
      wrap: (link, virtual) =>
        link.name === 'memory-a' ? new TracerLink(link, virtual, (line) => lines.push(line)) : link,
    });
    const closed: unknown[] = [];
    const echoed: Buffer[] = [];
    b.tcp.listen({ port: 80 }, (connection: TcpConnection) => {
      connection.setHandler({
        connected: () => {},
        readable: () => {
          for (let data = connection.read(); data !== undefined; data = connection.read())
            connection.write(data);
        },
        writable: () => {},
        closed: (error) => closed.push(error),
      });
    });
    const client: TcpConnection = a.tcp.connect(
      { remoteAddress: IP_B, remotePort: 80 },
      {
        connected: () => {},
        readable: () => {
          for (let data = client.read(); data !== undefined; data = client.read())
            echoed.push(Buffer.from(data));
        },
        writable: () => {},
        closed: (error) => closed.push(error),
      },
    );
    const sent: Buffer[] = [];
    const exchange = (fill: number) => {
      const data = Buffer.alloc(100_000, fill);
      sent.push(data);
      client.write(data);
      const total = sent.reduce((sum, bytes) => sum + bytes.length, 0);
      const arrived = () => echoed.reduce((sum, bytes) => sum + bytes.length, 0) === total;
      assert.ok(clock.runUntil(arrived, 20_000), `echo of ${fill}`);
    };
    exchange(1);
    b.ip.prepareAlter(IP_B, SECOND);
    exchange(2);
    const notice = new ChangeNotice({ id: 1, first: IP_B, second: SECOND });
    b.ip.send.setNotice(notice);
    b.ip.alter(IP_B, SECOND);
    exchange(3);
    assert.ok(notice.counters.rewritten > 0);
    const rewritten = notice.counters.rewritten;
    b.ip.alter(SECOND, IP_B);
    b.ip.send.cancelNotice();
    b.ip.removeAddress(SECOND);
    exchange(4);
    assert.is(notice.counters.rewritten, rewritten);
    assert.equal(Buffer.concat(echoed), Buffer.concat(sent));
    assert.equal(closed, []);
    const fromServer = lines.filter((line) => line.includes(' < 10.77.0.'));
    assert.ok(fromServer.length > 0);
    assert.ok(
      fromServer.every((line) => line.includes('< 10.77.0.2 > ')),
      'the client never sees the second address',
    );
    assert.not.ok(
      lines.some((line) => /\[[SFPA]*R/.test(line)),
      'no RST',
    );
  });
}

alter.run();
