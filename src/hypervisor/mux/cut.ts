/**
 * The cut and what follows it: paths of one or several service addresses change together, flows are steered, notices set;
 * later flows are moved, notices cancelled, groups forgotten. Part of the mux (mux.ts): each operation checks everything
 * before it changes anything, and runs to its end between two packets.
 */
import type { FlowName } from '../../channel/index.ts';
import type { Clock } from '../../common/index.ts';
import { ChangeNotice, ipAddress } from '../../netstack/index.ts';
import type { MuxCommands, MuxEvents } from './commands.ts';
import type { FlowNames } from './flow-names.ts';
import { isEcho } from './flow-table.ts';
import type { Forwarder } from './forwarder.ts';
import { MuxError } from './mux-error.ts';
import type { DrainGroup, MuxPort, Notice, ServiceAddress } from './state.ts';

type Arguments<N extends keyof MuxCommands> = MuxCommands[N]['arguments'];
type Result<N extends keyof MuxCommands> = MuxCommands[N]['result'];

/** What the cut needs of the mux. */
export interface CutEnvironment {
  readonly clock: Clock;
  readonly names: FlowNames;
  readonly onDrained: (data: MuxEvents['DRAINED']) => void;
  /** The forwarder, with the clock to be read anew. */
  readonly begin: () => Forwarder;
  /** Throws `unknown-port`, `unknown-address`. */
  readonly port: (name: string) => MuxPort;
  readonly service: (text: string) => ServiceAddress;
  readonly setAttached: (port: MuxPort, attached: boolean) => void;
  /** Throws `other-uplink`, `unknown-uplink`. */
  readonly isBehind: (port: MuxPort, uplink: string | undefined) => void;
}

/** One address of a switch, checked. */
interface Part {
  readonly service: ServiceAddress;
  readonly from: MuxPort;
  readonly to: MuxPort;
  readonly moved: 'all' | ReadonlySet<string>;
  readonly group: number;
  readonly change: ChangeNotice | undefined;
  readonly immediately: boolean;
}

export class Cut {
  readonly #env: CutEnvironment;
  readonly #forwarder: Forwarder;
  #lastNotice = 0;

  constructor(env: CutEnvironment, forwarder: Forwarder) {
    this.#env = env;
    this.#forwarder = forwarder;
  }

  switch(args: Arguments<'switch'>): Result<'switch'> {
    const first = this.#env.service(args.address);
    const key = JSON.stringify([args.from, args.to, args.moved, args.notice, args.addresses, args.also]);
    if (first.lastSwitch?.key === key && first.path === this.#env.port(args.to))
      return first.lastSwitch.answer;
    const addresses = Object.entries(args.addresses ?? {}).map(
      ([name, texts]) => [this.#env.port(name), texts.map(ipAddress)] as const,
    );
    const parts = this.#check(args);

    // Nothing fails from here on.
    this.#env.begin();
    const results = parts.map((part) => this.#apply(part));
    for (const to of new Set(parts.map((part) => part.to))) this.#env.setAttached(to, true);
    for (const [port, list] of addresses) port.setAddresses(list);
    const also = results.slice(1).map((result, i) => ({ address: args.also![i]!.address, ...result }));
    const answer = { ...results[0]!, ...(args.also === undefined ? {} : { also }) };
    for (const { service } of parts) service.lastSwitch = undefined;
    first.lastSwitch = { key, answer };
    return answer;
  }

  #check(args: Arguments<'switch'>): Part[] {
    const wanted = [args, ...(args.also ?? [])];
    const groups = this.#forwarder.freeGroups(wanted.length);
    if (groups === undefined) {
      throw new MuxError('bad-argument', 'too many switches have flows that are not finished', {
        remedy: 'cancel the notices of earlier ones',
      });
    }
    const parts: Part[] = [];
    let notice = this.#lastNotice;
    for (const [i, { address, moved, notice: wish, ...own }] of wanted.entries()) {
      const service = this.#env.service(address);
      const from = this.#env.port(own.from ?? args.from);
      const to = this.#env.port(own.to ?? args.to);
      if (from === to) {
        throw new MuxError('bad-argument', `${from.name} cannot be switched to itself`, {
          values: { ...args },
        });
      }
      this.#env.isBehind(to, own.uplink ?? (own.to === undefined ? args.uplink : undefined));
      if (parts.some((part) => part.service === service)) {
        throw new MuxError('bad-argument', `${address} is named twice`, { values: { address } });
      }
      if (service.path !== from) {
        throw new MuxError(
          'path-elsewhere',
          `the path of ${address} is at ${service.path?.name ?? 'no port'}, not at ${from.name}`,
          { remedy: 'ask for the ports and paths, then name the one that has it', values: { ...args } },
        );
      }
      const second = wish === undefined ? undefined : ipAddress(wish.second);
      if (second !== undefined && typeof second !== typeof service.ip) {
        throw new MuxError('bad-argument', `${wish!.second} cannot stand for ${address}`, {
          remedy: 'give a second address of the same family',
          values: { address, second: wish!.second },
        });
      }
      parts.push({
        service,
        from,
        to,
        moved: moved === 'all' ? 'all' : this.#env.names.keys(service, moved ?? []),
        group: groups[i]!,
        change:
          second === undefined ? undefined : new ChangeNotice({ id: ++notice, first: service.ip, second }),
        immediately: wish?.immediately === true,
      });
    }
    return parts;
  }

  #apply({ service, from, to, moved, group: id, change, immediately }: Part): {
    notice?: number;
    steered: number;
  } {
    const { flows, groups, addresses } = this.#forwarder;
    if (service.hold === undefined) service.restartCounts();
    let notice: Notice | undefined;
    if (change !== undefined) {
      for (const other of [...service.notices]) if (other.port === from) this.dropNotice(other);
      this.#lastNotice = change.id;
      notice = {
        id: change.id,
        change,
        port: from,
        service,
        second: addresses.keep(change.second),
        translate: immediately,
      };
      from.notices = [...from.notices, notice];
      service.notices.push(notice);
    }
    const group: DrainGroup = { id, service, port: from, notice, drained: false, cancelled: false };
    groups[id] = group;
    service.groups.push(group);
    let steered = 0;
    flows.forEach(service.address, (flow) => {
      const before = groups[flows.group(flow)];
      if (before !== undefined && before.port !== from) {
        // Back with the holder of the path, unless it still answers under another address.
        if (before.port === to && before.notice === undefined) flows.setGroup(flow, 0);
        return;
      }
      if (moved === 'all' || moved.has(this.#env.names.keyOf(flow))) {
        flows.setGroup(flow, 0);
        return;
      }
      // An echo request needs no state: whoever has the address answers.
      if (isEcho(flows.protocol[flow]!) && !flows.beganLocally(flow)) return;
      flows.setGroup(flow, id);
      if (!flows.hasEnded(flow)) steered++;
    });
    service.path = to;
    service.otherSegment = to.segment === from.segment ? 0 : from.segment;
    if (steered === 0) this.drained(group);
    return notice === undefined ? { steered } : { notice: notice.id, steered };
  }

  noticeCancel(args: Arguments<'notice-cancel'>): Result<'notice-cancel'> {
    const service = this.#env.service(args.address);
    const { flows } = this.#env.begin();
    const groups = service.groups.filter(
      (group) => !group.cancelled && (args.notice === undefined || group.notice?.id === args.notice),
    );
    const ids = new Set(groups.map((group) => group.id));
    const cutOff = new Map<number, FlowName>();
    flows.forEach(service.address, (flow) => {
      const id = flows.group(flow);
      if (!ids.has(id) || this.#forwarder.groups[id]?.port === service.path || flows.hasEnded(flow)) return;
      const name = this.#env.names.name(flow);
      if (name !== undefined) cutOff.set(flow, name);
    });
    if (cutOff.size > 0 && args.force !== true) {
      throw new MuxError('still-steered', `${cutOff.size} flows of ${args.address} have not ended`, {
        remedy: 'wait for DRAINED, or cancel with force, which cuts them off',
        values: { address: args.address, flows: cutOff.size },
      });
    }
    flows.forEach(service.address, (flow) => {
      const id = flows.group(flow);
      if (!ids.has(id)) return;
      if (this.#forwarder.groups[id]?.port === service.path) flows.setGroup(flow, 0);
      else if (!flows.hasEnded(flow)) flows.remove(flow);
    });
    for (const group of groups) {
      group.cancelled = true;
      if (group.notice !== undefined) this.dropNotice(group.notice);
    }
    this.collectGroups(service);
    return { abandoned: [...cutOff.values()] };
  }

  flowsMoved(args: Arguments<'flows-moved'>): Result<'flows-moved'> {
    const { names } = this.#env;
    const service = this.#env.service(args.address);
    const keys = args.flows.map((name) => names.key(service, name));
    const { flows } = this.#env.begin();
    let moved = 0;
    for (const key of keys) {
      const flow = names.know(service, key, this.#forwarder.nowMs);
      if (flow < 0 || (args.answered === true && !flows.isAnswered(flow))) continue;
      flows.setGroup(flow, 0);
      moved++;
    }
    return { moved };
  }

  drained(group: DrainGroup): void {
    // After the operation or packet that ended the last flow, and after the answer to a command.
    this.#env.clock.after(0, () => {
      if (group.cancelled || this.#forwarder.flows.live(group.id) > 0) return;
      group.drained = true;
      const address = group.service.text;
      const notice = group.notice?.id;
      this.#env.onDrained(notice === undefined ? { address } : { address, notice });
    });
  }

  dropNotice(notice: Notice): void {
    notice.port.notices = notice.port.notices.filter((other) => other !== notice);
    notice.service.notices = notice.service.notices.filter((other) => other !== notice);
    for (const group of notice.service.groups) if (group.notice === notice) group.notice = undefined;
  }

  forgetGroup(group: DrainGroup): void {
    group.cancelled = true;
    group.service.groups = group.service.groups.filter((other) => other !== group);
    this.#forwarder.groups[group.id] = undefined;
  }

  /** Forgets groups that are over and that no flow names any more. */
  collectGroups(service: ServiceAddress): void {
    const { flows } = this.#forwarder;
    const over = service.groups.filter(
      (group) =>
        flows.live(group.id) === 0 && (group.cancelled || (group.drained && group.notice === undefined)),
    );
    if (over.length === 0) return;
    const named = new Set<number>();
    flows.forEach(service.address, (flow) => named.add(flows.group(flow)));
    for (const group of over) if (!named.has(group.id)) this.forgetGroup(group);
  }
}
