import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { readInto } from '../../../../src/hypervisor/mux/port/accepted.ts';
import { StreamPort } from '../../../../src/hypervisor/mux/port/stream-port.ts';
import { Turns } from '../../../../src/hypervisor/mux/port/turns.ts';
import { StreamLink } from '../../../../src/netstack/index.ts';
import { eventually, seeded, within } from '../../../support/index.ts';

const test = suite('hypervisor/mux/port/stream-port');
const directory = mkdtempSync(join(tmpdir(), 'stream-port-'));
test.after(() => rmSync(directory, { recursive: true }));

async function listening(name: string, receive: (packet: Uint8Array) => void) {
  const path = join(directory, name);
  const states: boolean[] = [];
  const port = new StreamPort({
    name,
    path,
    vnetHeader: true,
    turns: new Turns(),
    onConnected: (connected) => states.push(connected),
    onFault: (fault) => assert.unreachable(fault),
    onOversize: (count) => assert.unreachable(`${count} oversize`),
  });
  port.attach({
    receive: (buffer, offset, length) => receive(buffer.slice(offset, offset + length)),
    endOfBatch: () => {},
    writable: () => {},
  });
  await port.listen();
  return { port, path, states };
}

const quiet = { receive: () => {}, endOfBatch: () => {}, writable: () => {} };

test(
  'packets arrive whole and in order, although reads share one buffer and turns end in between',
  within(() =>
    seeded(async (random) => {
      const expected: number[] = [];
      let received = 0;
      let wrong = 0;
      const { port, path } = await listening('order', (packet) => {
        // Longer than a turn at times, so that what arrives meanwhile waits.
        const untilMs = performance.now() + (received % 64 === 0 ? 1 : 0);
        while (performance.now() < untilMs);
        const length = expected[received];
        const right =
          packet.length === length && packet.every((byte, i) => i < 10 || byte === (received & 0xff));
        if (!right) wrong++;
        received++;
      });
      const link = new StreamLink({ path });
      let blocked = false;
      link.attach({ ...quiet, writable: () => (blocked = false) });
      await link.ready();
      const packet = new Uint8Array(65_563);
      while (expected.length < 1_500) {
        const length = 24 + random.below(random.below(4) === 0 ? 65_000 : 1_500);
        packet.fill(expected.length & 0xff, 10, length);
        if (link.transmit(packet, 0, length)) expected.push(length);
        else {
          blocked = true;
          link.flush();
          await eventually('room', () => !blocked);
        }
      }
      link.flush();
      await eventually('every packet', () => received === expected.length);
      assert.is(wrong, 0);
      link.close();
      port.close();
    }),
  ),
);

test(
  'connections come and go, and leave no descriptor',
  within(async () => {
    const { port, path, states } = await listening('come-and-go', () => {});
    const open = () => readdirSync('/proc/self/fd').length;
    const before = open();
    for (let i = 0; i < 50; i++) {
      const link = new StreamLink({ path });
      link.attach(quiet);
      await link.ready();
      await eventually('accepted', () => states.at(-1) === true);
      link.close();
      await eventually('gone', () => states.at(-1) === false);
    }
    await eventually('the same descriptors', () => open() <= before);
    port.close();
  }),
);

test(
  'a server whose connections read into a buffer counts them, and ends',
  within(async () => {
    const path = join(directory, 'server');
    const sockets: Socket[] = [];
    let text = '';
    const server = createServer({ pauseOnConnect: true }, (accepted) => {
      sockets.push(
        readInto(Buffer.alloc(16), accepted, (_socket, chunk) => {
          text += chunk.toString();
        }),
      );
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const { connect } = await import('node:net');
    const client = connect(path);
    client.end('more than the sixteen bytes of the buffer');
    let ended = false;
    client.on('end', () => {
      ended = true;
    });
    client.resume();
    await eventually('all of it', () => text === 'more than the sixteen bytes of the buffer');
    await eventually('the end, both ways', () => ended && sockets[0]!.destroyed);
    await new Promise<void>((resolve) => server.close(() => resolve()));
  }),
);

test.run();
