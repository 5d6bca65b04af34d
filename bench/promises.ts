/** What docs/SPECIFICATION.md promises of speed. The rows of the bench carry these ids. */
export interface Promised {
  readonly id: string;
  readonly what: string;
  readonly goal: string;
}

export const PROMISES: readonly Promised[] = [
  {
    id: 'M1',
    what: '`changeover mux` between two TAP interfaces, one TCP stream, offloads on',
    goal: '≥ 1.2 × the Linux bridge, ≥ 8 × `vde_switch`',
  },
  { id: 'M2', what: 'mux, 60-byte frames', goal: '≥ 1.5 × `vde_switch`' },
  { id: 'M3', what: 'mux, round trip of a ping, median and 99th percentile', goal: '≤ 1 × `vde_switch`' },
  {
    id: 'M4',
    what: 'TCP/IP stack of `changeover stack`, and behind mux and port: bulk TCP out and in',
    goal: '≥ 1.5 × `slirp4netns` and lwIP in C; beside kernel TCP for scale',
  },
  {
    id: 'M5',
    what: 'HTTP requests per second of an unmodified `node:http` application on the stack, 32 connections',
    goal: '≥ 0.7 × the same application on kernel TCP',
  },
  {
    id: 'M6',
    what: 'connections per second; memory of an idle connection',
    goal: '≥ 0.5 × kernel sockets in Node; ≤ 8 KiB more than there',
  },
  {
    id: 'M7',
    what: 'change hook in the packet send program: idle, and with a notice set',
    goal: '≤ 1 %; ≤ 5 %',
  },
  {
    id: 'B1',
    what: 'NBD: random 4 KiB at queue depth 1 and 32, sequential 1 MiB',
    goal: '≥ 1 × `nbdkit file` and ≥ 2.5 × `qemu-nbd` at depth 32; ≥ 0.8 × at depth 1 and sequential',
  },
  {
    id: 'B2',
    what: 'the writes of B1 with the write log on',
    goal: '≥ 0.7 × without it random, ≥ 0.5 × sequential; ≥ 2 × QEMU `blklogwrites`',
  },
  {
    id: 'B3',
    what: 'copy of a half-sparse image',
    goal: '≥ 1 × `cp --sparse=always` and `qemu-img convert`',
  },
  { id: 'B4', what: 'replay of a write log', goal: '≥ 0.7 × `dd` with the same block size' },
  {
    id: 'C1',
    what: 'changeover of kind `overlap` under load: failed requests, longest gap of a client',
    goal: '0 failed; the gap beyond the pace ≤ 50 ms and ≤ that of HAProxy’s runtime switch; beside nginx’s graceful reload',
  },
  {
    id: 'C2',
    what: 'changeover of kind `hold` under load with a service that writes: failed requests, pause, forecast',
    goal: '0 failed; pause ≤ 50 ms; forecast within 25 %',
  },
  {
    id: 'C3',
    what: 'from the order to the patched service: 2 GiB of disks, a partition of kind `process`, strategy `hold`',
    goal: '≤ 20 s',
  },
  { id: 'C4', what: 'boot of a partition of kind `process`', goal: '≤ 300 ms' },
];
