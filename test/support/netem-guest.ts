import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';

/** Where the Makefile has tools/netem-guest put it. */
export const NETEM_GUEST =
  process.env['NETEM_GUEST'] ?? resolve(import.meta.dirname, '../../node_modules/.netem-guest');

/** Every packet on its own, checksummed: what netem loses or delays is what a wire would. */
const PLAIN = [
  'csum=off',
  'gso=off',
  'guest_csum=off',
  ...['guest', 'host'].flatMap((side) => [`${side}_tso4=off`, `${side}_tso6=off`, `${side}_ecn=off`]),
  'guest_ufo=off',
  'host_ufo=off',
  'mrg_rxbuf=off',
].join(',');

/**
 * A bridge with netem in a small Debian guest under QEMU's TCG (no KVM needed): a host's kernel need not have netem then. It has
 * three ports: two TAPs, created in this namespace, and a unix socket with QEMU's framing.
 */
export class NetemGuest {
  readonly #qemu: ChildProcess;
  #output = '';
  #commands = 0;
  readonly bootMs: number;

  private constructor(qemu: ChildProcess, bootMs: number) {
    this.#qemu = qemu;
    this.bootMs = bootMs;
  }

  static missing(): string | undefined {
    return existsSync(join(NETEM_GUEST, 'ready'))
      ? undefined
      : `there is no guest in ${NETEM_GUEST}; make it with tools/netem-guest ${NETEM_GUEST}`;
  }

  /** Listens on `socketPath`. Rejects when the guest is not up after `limitMs`. */
  static async boot(
    taps: readonly [string, string],
    socketPath: string,
    limitMs: number,
  ): Promise<NetemGuest> {
    const device = (id: string, netdev: string, n: number) => [
      ...['-netdev', `${netdev},id=${id}`],
      ...['-device', `virtio-net-pci,netdev=${id},mac=52:54:00:00:00:0${n},romfile=,${PLAIN}`],
    ];
    const startedMs = performance.now();
    const qemu = spawn(
      'qemu-system-x86_64',
      [
        ...[
          '-M',
          'pc,accel=tcg',
          '-cpu',
          'max',
          '-m',
          '192',
          '-display',
          'none',
          '-nodefaults',
          '-no-reboot',
        ],
        ...['-serial', 'stdio', '-monitor', 'none'],
        ...['-kernel', join(NETEM_GUEST, 'vmlinuz'), '-initrd', join(NETEM_GUEST, 'initramfs')],
        ...['-append', 'console=ttyS0 quiet panic=-1 nokaslr mitigations=off net.ifnames=0'],
        ...device('left', `tap,ifname=${taps[0]},script=no,downscript=no`, 1),
        ...device('right', `tap,ifname=${taps[1]},script=no,downscript=no`, 2),
        ...device('stack', `stream,server=on,addr.type=unix,addr.path=${socketPath}`, 3),
      ],
      { stdio: ['pipe', 'pipe', 'pipe'] },
    );
    const guest = new NetemGuest(qemu, 0);
    for (const stream of [qemu.stdout!, qemu.stderr!]) {
      stream.on('data', (chunk: Buffer) => {
        guest.#output += chunk.toString('latin1');
      });
    }
    try {
      // What is written before the shell reads may be lost: asked again until it answers.
      await guest.#until(/netem-guest-up/, limitMs, () => qemu.stdin!.write('echo netem-guest-up\n'));
    } catch (error) {
      guest.close();
      throw error;
    }
    return Object.assign(guest, { bootMs: performance.now() - startedMs });
  }

  /** `netem` arguments for what leaves towards each port, `delay 10ms loss 1%`; none = a plain bridge. */
  async impair(toLeft: string, toRight: string): Promise<void> {
    await this.run('for d in eth0 eth1 eth2; do /bin/tc qdisc del dev $d root 2>/dev/null; done');
    const set = (device: string, what: string) =>
      what === '' ? 'true' : `/bin/tc qdisc add dev ${device} root netem limit 20000 ${what}`;
    const said = await this.run(
      `${set('eth0', toLeft)} && ${set('eth1', toRight)} && ${set('eth2', toRight)} && echo accepted`,
    );
    if (!said.includes('accepted')) throw new Error(`netem did not take its arguments: ${said}`);
  }

  /** netem's own counts per port: packets sent and dropped. */
  async counts(): Promise<string> {
    return this.run('/bin/tc -s qdisc show');
  }

  /** Runs one line in the guest; returns what it printed. */
  async run(line: string): Promise<string> {
    const tag = `done-${++this.#commands}-`;
    const from = this.#output.length;
    // The tag is put together in the guest: an echoed line does not end the wait.
    this.#qemu.stdin!.write(`${line}; echo done-"${this.#commands}"-\n`);
    await this.#until(new RegExp(`^${tag}`, 'm'), 20_000, () => {}, from);
    return this.#output.slice(from);
  }

  close(): void {
    this.#qemu.kill('SIGKILL');
  }

  async #until(pattern: RegExp, limitMs: number, nudge: () => void, from = 0): Promise<void> {
    const untilMs = performance.now() + limitMs;
    for (let round = 0; !pattern.test(this.#output.slice(from)); round++) {
      if (this.#qemu.exitCode !== null || performance.now() > untilMs) {
        throw new Error(
          `the netem guest ${this.#qemu.exitCode === null ? `said nothing for ${limitMs} ms` : 'has ended'}: ${this.#output.slice(-2000)}`,
        );
      }
      if (round % 50 === 0) nudge();
      await new Promise((done) => setTimeout(done, 20));
    }
  }
}
