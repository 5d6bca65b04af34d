/**
 * N3: two whole stacks on a bad link, virtual time: loss × reordering × duplication × delay × damaged bits, 486 combinations,
 * bytes both ways at once. ARP is spared, since a host that gives up on a neighbour is not TCP's doing. `SOAK=1` repeats it
 * with further seeds, SEEDS of them.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { LinkDevice, TcpConnection } from '../../../../src/netstack/index.ts';
import { ETHERTYPE, impair, LinkWrapper, readU16 } from '../../../../src/netstack/index.ts';
import { seeded, within } from '../../../support/index.ts';
import { IP_B, twoStacks } from '../../iface/two-stacks.ts';

const impairments = suite('netstack/transport/tcp/impairments');
const soak = process.env['SOAK'] === '1';
const SEEDS = Number(process.env['SEEDS'] ?? (soak ? 100 : 2));
const BYTES = 30_000;
/** Beyond that a transfer has stalled: fifteen minutes of virtual time. */
const STALL_MS = 900_000;

interface Cell {
  readonly loss: number;
  readonly reorder: number;
  readonly duplicate: number;
  readonly delayMs: number;
  readonly corrupt: number;
}

function* cells(): Generator<Cell> {
  for (const loss of [0, 0.001, 0.01, 0.05, 0.1, 0.2])
    for (const reorder of [0, 0.05, 0.25])
      for (const duplicate of [0, 0.01, 0.05])
        for (const delayMs of [0, 10, 100])
          for (const corrupt of [0, 0.001, 0.01]) yield { loss, reorder, duplicate, delayMs, corrupt };
}

/** ARP goes past the impairments. */
class ArpSpared extends LinkWrapper {
  readonly #plain: LinkDevice;
  constructor(impaired: LinkDevice, plain: LinkDevice) {
    super(impaired);
    this.#plain = plain;
  }
  override transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    return readU16(buffer, offset + 22) === ETHERTYPE.ARP
      ? this.#plain.transmit(buffer, offset, length)
      : super.transmit(buffer, offset, length);
  }
}

/** Sends `data` and closes; collects what comes. */
function side(connection: TcpConnection, data: Uint8Array) {
  const got: Buffer[] = [];
  const end = { got, done: false, error: undefined as string | undefined };
  let at = 0;
  const pump = () => {
    while (at < data.length) {
      const piece = data.subarray(at, at + 7000);
      at += piece.length;
      if (!connection.write(piece)) return;
    }
    connection.shutdown();
  };
  connection.setHandler({
    connected: pump,
    writable: pump,
    readable: () => {
      for (let chunk = connection.read(); chunk !== undefined; chunk = connection.read()) got.push(chunk);
      if (connection.remoteClosed) end.done = true;
    },
    closed: (error) => {
      end.error = error?.code;
    },
  });
  if (connection.state === 'ESTABLISHED') pump();
  return end;
}

function run(cell: Cell, seed: number, up: Uint8Array, down: Uint8Array) {
  const label = `${JSON.stringify(cell)} seed ${seed}`;
  const { clock, a, b } = twoStacks({
    seed,
    wrap: (link, virtual, random) => new ArpSpared(impair(link, virtual, random, cell), link),
    common: { tcp: { synRetries: 30, synAckRetries: 30, dataRetries: 30 } } as object,
  });
  let server: ReturnType<typeof side> | undefined;
  b.tcp.listen({ port: 80 }, (connection) => {
    server = side(connection, down);
  });
  const nothing = { connected: () => {}, readable: () => {}, writable: () => {}, closed: () => {} };
  const connection = a.tcp.connect({ remoteAddress: IP_B, remotePort: 80 }, nothing);
  const client = side(connection, up);
  assert.ok(
    clock.runUntil(() => client.done && server?.done === true, STALL_MS),
    `stalled: ${label}`,
  );
  assert.ok(Buffer.concat(client.got).equals(down), `towards the client: ${label}`);
  assert.ok(Buffer.concat(server!.got).equals(up), `towards the server: ${label}`);
  assert.equal([client.error, server!.error], [undefined, undefined], label);
  return {
    ms: clock.nowMs(),
    retransmits: a.tcp.counters.retransmits + b.tcp.counters.retransmits,
    damaged: a.ip.drops.total + b.ip.drops.total,
  };
}

impairments(
  `N3: 486 combinations of loss, reordering, duplication, delay and damage × ${SEEDS}: byte-exact both ways, no stall`,
  within(
    () =>
      seeded((random, seed) => {
        let transfers = 0;
        let longestMs = 0;
        let retransmits = 0;
        let damaged = 0;
        for (let round = 0; round < SEEDS; round++) {
          const up = random.fill(new Uint8Array(BYTES));
          const down = random.fill(new Uint8Array(BYTES));
          for (const cell of cells()) {
            const done = run(cell, (seed + round) >>> 0, up, down);
            longestMs = Math.max(longestMs, done.ms);
            retransmits += done.retransmits;
            damaged += done.damaged;
            transfers++;
          }
        }
        assert.is(transfers, 486 * SEEDS);
        assert.ok(retransmits > 1000 * SEEDS && damaged > 50 * SEEDS, 'the link was bad');
        console.log(
          `N3, seed ${seed}: ${transfers} transfers, ${retransmits} retransmissions, ${damaged} damaged packets, the longest took ${Math.round(longestMs)} ms`,
        );
      }),
    120_000 * SEEDS,
  ),
);

impairments.run();
