import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { eventually, seeded, within } from '../../test/support/index.ts';
import { PacketDevice, TapError } from '../src/index.ts';

const device = suite('tap-tun/packet-device');
const source = fileURLToPath(new URL('../src/index.ts', import.meta.url));

/** Frames one after the other, with their index. */
function frames(lengths: readonly number[], fill: (i: number, frame: Uint8Array) => void) {
  const buffer = new Uint8Array(lengths.reduce((sum, length) => sum + length, 0));
  const index = new Uint32Array(2 * lengths.length);
  let at = 0;
  lengths.forEach((length, i) => {
    fill(i, buffer.subarray(at, at + length));
    index[2 * i] = at;
    index[2 * i + 1] = length;
    at += length;
  });
  return { buffer, index };
}

const numbered = (i: number, frame: Uint8Array) => {
  frame.fill(i & 0xff);
  new DataView(frame.buffer, frame.byteOffset).setUint32(0, i);
};

/** Runs a program in a node of its own; resolves with exit code and output. */
function program(text: string): Promise<{ code: number | null; output: string }> {
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', text], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout.on('data', (chunk) => {
    output += chunk;
  });
  child.stderr.on('data', (chunk) => {
    output += chunk;
  });
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, output })));
}

function codeOfThrown(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    assert.instance(error, TapError);
    return (error as TapError).code;
  }
  return 'nothing thrown';
}

device(
  'frames arrive in order, whole, with their boundaries',
  within(() =>
    seeded(async (random) => {
      const [left, right] = PacketDevice.pair();
      const lengths = Array.from(
        { length: 5_000 },
        () => 4 + random.below(random.below(20) === 0 ? 60_000 : 200),
      );
      const { buffer, index } = frames(lengths, numbered);
      let received = 0;
      let wrong = 0;
      right.start((batch, at, count) => {
        for (let i = 0; i < count; i++, received++) {
          const [offset, length] = [at[2 * i]!, at[2 * i + 1]!];
          const number = new DataView(batch.buffer).getUint32(offset);
          if (number !== received || length !== lengths[received]) wrong++;
          if (length > 4 && batch[offset + length - 1] !== (received & 0xff)) wrong++;
        }
      });
      let sent = 0;
      const send = () => {
        sent += left.write(buffer, index, sent, lengths.length - sent);
      };
      left.onWritable = send;
      send();
      assert.ok(sent < lengths.length, 'the socket buffer cannot hold all of it');
      await eventually('all frames received', () => received === lengths.length);
      assert.is(wrong, 0);
      assert.is(left.counters().txFrames, lengths.length);
      assert.ok(left.counters().txWaits > 0);
      assert.is(right.counters().rxFrames, lengths.length);
      assert.is(right.counters().rxBytes, left.counters().txBytes);
      left.close();
      right.close();
    }),
  ),
);

device(
  'one wake-up takes as many frames as the batch holds; the rest waits for the next turn of the loop',
  within(async () => {
    const [left, right] = PacketDevice.pair();
    const { buffer, index } = frames(new Array(100).fill(60), numbered);
    assert.is(left.write(buffer, index, 0, 100), 100);
    const batches: number[] = [];
    let turns = 0;
    const turn = () => {
      turns++;
      if (batches.length < 7) setImmediate(turn);
    };
    setImmediate(turn);
    right.start((_buffer, _index, count) => batches.push(count), { frames: 16 });
    await eventually('seven batches', () => batches.length === 7);
    assert.equal(batches, [16, 16, 16, 16, 16, 16, 4]);
    assert.ok(turns >= 6, `the loop turned ${turns} times`);
    left.close();
    right.close();
  }),
);

device(
  'a batch never exceeds the buffer',
  within(async () => {
    const [left, right] = PacketDevice.pair();
    const { buffer, index } = frames([30_000, 30_000, 30_000], numbered);
    assert.is(left.write(buffer, index, 0, 3), 3);
    const batches: number[] = [];
    right.start((_buffer, _index, count) => batches.push(count), { bufferBytes: 65_664 });
    await eventually('three frames', () => batches.reduce((a, b) => a + b, 0) === 3);
    assert.equal(batches, [1, 1, 1]);
    left.close();
    right.close();
  }),
);

device(
  'stop leaves frames in the queue, start takes them up',
  within(async () => {
    const [left, right] = PacketDevice.pair();
    let received = 0;
    const count = (_b: Uint8Array, _i: Uint32Array, n: number) => {
      received += n;
    };
    right.start(count);
    left.writeOne(new Uint8Array(60));
    await eventually('first frame', () => received === 1);
    right.stop();
    left.writeOne(new Uint8Array(60));
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    assert.is(received, 1);
    right.start(count);
    await eventually('second frame', () => received === 2);
    left.close();
    right.close();
  }),
);

device(
  'writeOne says when there is no room, and onWritable when there is again',
  within(async () => {
    const [left, right] = PacketDevice.pair();
    const frame = new Uint8Array(1000);
    let room = 0;
    left.onWritable = () => room++;
    let sent = 0;
    while (left.writeOne(frame)) sent++;
    assert.ok(sent > 0);
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    assert.is(room, 0, 'not before somebody reads');
    let received = 0;
    right.start((_b, _i, n) => {
      received += n;
    });
    await eventually('room', () => room === 1);
    await eventually('all', () => received === sent);
    left.close();
    right.close();
  }),
);

device(
  'the batch handler may close the device',
  within(async () => {
    const [left, right] = PacketDevice.pair();
    let calls = 0;
    right.start(() => {
      calls++;
      right.close();
    });
    left.writeOne(new Uint8Array(60));
    await eventually('closed', () => right.closed);
    assert.is(calls, 1);
    left.close();
  }),
);

device('close is idempotent; what comes after is a typed error', () => {
  const [left, right] = PacketDevice.pair();
  left.close();
  left.close();
  left[Symbol.dispose]();
  assert.is(
    codeOfThrown(() => left.writeOne(new Uint8Array(60))),
    'CLOSED',
  );
  assert.is(
    codeOfThrown(() => left.write(new Uint8Array(60), new Uint32Array(2), 0, 1)),
    'CLOSED',
  );
  assert.is(
    codeOfThrown(() => left.start(() => {})),
    'CLOSED',
  );
  assert.is(
    codeOfThrown(() => left.stop()),
    'CLOSED',
  );
  assert.is(
    codeOfThrown(() => left.descriptor),
    'CLOSED',
  );
  assert.is(left.counters().txFrames, 0);
  right.close();
});

device(
  'the end of the other side is told once, after the last frame',
  within(async () => {
    const [left, right] = PacketDevice.pair();
    left.writeOne(new Uint8Array(60));
    left.close();
    const events: string[] = [];
    right.onError = (error) => events.push(error.code);
    right.start((_b, _i, n) => events.push(`${n}`));
    await eventually('the end', () => events.length === 2);
    assert.equal(events, ['1', 'EPIPE']);
    assert.is(
      codeOfThrown(() => right.writeOne(new Uint8Array(60))),
      'EPIPE',
    );
    right.close();
  }),
);

device('arguments outside their range are refused before anything is sent', () => {
  const [left, right] = PacketDevice.pair();
  const buffer = new Uint8Array(100);
  assert.throws(() => left.write(buffer, Uint32Array.of(0, 101), 0, 1), /outside the buffer/);
  assert.throws(() => left.write(buffer, Uint32Array.of(0xffffffff, 2), 0, 1), /outside the buffer/);
  assert.throws(() => left.write(buffer, Uint32Array.of(0, 10), 0, 2), /fewer frames/);
  assert.throws(() => left.write(buffer, Uint32Array.of(0, 10), 1, 0xffffffff), /fewer frames/);
  assert.throws(() => left.writeOne(buffer, 50, 51), /outside the buffer/);
  assert.throws(() => left.writeOne('text' as never, 0, 1), /typed array/);
  assert.is(
    codeOfThrown(() => left.start(() => {}, { bufferBytes: 1500 })),
    'BAD_OPTION',
  );
  assert.is(
    codeOfThrown(() => left.start(() => {}, { frames: 0 })),
    'BAD_OPTION',
  );
  assert.is(
    codeOfThrown(() => PacketDevice.fromDescriptor(99_999)),
    'EBADF',
  );
  assert.is(left.counters().txFrames, 0);
  left.close();
  right.close();
});

device(
  'an exception in the batch handler is an uncaught exception with its stack, and the device goes on',
  within(async () => {
    const { code, output } = await program(`
      import { PacketDevice } from ${JSON.stringify(source)};
      const [left, right] = PacketDevice.pair();
      let calls = 0;
      process.on('uncaughtException', (error) => { console.log('caught', error.message); left.writeOne(new Uint8Array(60)); });
      right.start(() => { if (calls++ === 0) throw new Error('from the handler'); console.log('second'); right.close(); });
      left.writeOne(new Uint8Array(60));
    `);
    assert.is(code, 0, output);
    assert.match(output, /caught from the handler\nsecond/);
  }),
);

device(
  'a process with receiving devices ends: by process.exit at once, by itself when they are unreferenced or closed',
  within(async () => {
    const open = `import { PacketDevice } from ${JSON.stringify(source)}; const [left, right] = PacketDevice.pair(); right.start(() => {});`;
    const [exit, inHandler, unref, close] = await Promise.all([
      program(`${open} process.exit(7);`),
      program(`${open} right.start(() => process.exit(8)); left.writeOne(new Uint8Array(60));`),
      program(`${open} right.unref();`),
      program(`${open} setTimeout(() => right.close(), 10);`),
    ]);
    assert.is(exit.code, 7, exit.output);
    assert.is(inHandler.code, 8, inHandler.output);
    assert.is(unref.code, 0, unref.output);
    assert.is(close.code, 0, close.output);
  }),
);

device(
  'a worker thread may be terminated while its devices receive',
  within(async () => {
    for (let i = 0; i < 3; i++) {
      const worker = new Worker(
        `import(${JSON.stringify(source)}).then(({ PacketDevice }) => {
           const [left, right] = PacketDevice.pair();
           right.start(() => left.writeOne(new Uint8Array(60)));
           left.writeOne(new Uint8Array(60));
           require('node:worker_threads').parentPort.postMessage('running');
         })`,
        { eval: true },
      );
      await new Promise<void>((resolve, reject) => {
        worker.once('message', () => resolve());
        worker.once('error', reject);
      });
      await worker.terminate();
    }
  }),
);

device(
  'descriptors of devices that were dropped without close are closed by the garbage collector',
  within(async () => {
    setFlagsFromString('--expose-gc');
    const gc = runInNewContext('gc') as () => void;
    const openFiles = () => readdirSync('/proc/self/fd').length;
    await new Promise((resolve) => setImmediate(resolve));
    const before = openFiles();
    (() => {
      for (let i = 0; i < 20; i++) PacketDevice.pair();
    })();
    assert.ok(openFiles() >= before + 40);
    await eventually('descriptors closed', () => {
      gc();
      return openFiles() <= before;
    });
  }),
);

device.run();
