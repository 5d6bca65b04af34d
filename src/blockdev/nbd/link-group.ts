/**
 * Connections of one client to one export; several where the server promises that a flush and a read on one see what was
 * completed on any other (NBD_FLAG_CAN_MULTI_CONN), else one.
 *
 * They live and die together. When one is lost the others are closed too and everything is sent again on new ones: a request that
 * went out on the lost one may still be under way in the server, and only new connections are held back until it is through.
 */
import type { CodedError } from '../../common/index.ts';
import type { ExportInfo } from './client-handshake.ts';
import { NbdClientError } from './client-handshake.ts';
import type { LinkEvents, LinkTarget } from './client-link.ts';
import { ClientLink } from './client-link.ts';
import type { ClientRequest } from './client-request.ts';
import { NBD_FLAG_CAN_MULTI_CONN } from './protocol.ts';

/** How long a server may take to close what was left. */
const LEAVE_LIMIT_MS = 2_000;

export class LinkGroup {
  readonly #links: ClientLink[] = [];
  readonly #events: LinkEvents;
  #opened = false;
  #over = false;
  /** Why one was lost before all were open. */
  #early: CodedError | undefined;

  private constructor(events: LinkEvents) {
    this.#events = events;
  }

  /** Opens `count` connections, or one. Rejects with NbdClientError, and then none is left. */
  static async open(target: LinkTarget, count: number, events: LinkEvents): Promise<LinkGroup> {
    const group = new LinkGroup(events);
    const add = async () => {
      const link = await ClientLink.open(target, {
        answered: (request) => events.answered(request),
        lost: (reason) => group.#lost(reason),
      });
      group.#links.push(link);
    };
    await add();
    const { transmissionFlags, size } = group.info;
    const more = (transmissionFlags & NBD_FLAG_CAN_MULTI_CONN) === 0 ? 0 : Math.max(0, count - 1);
    const outcomes = await Promise.allSettled(Array.from({ length: more }, add));
    const failed = outcomes.find((outcome) => outcome.status === 'rejected');
    let failure: unknown = failed?.reason ?? group.#early;
    if (group.#links.some(({ info }) => info.size !== size || info.transmissionFlags !== transmissionFlags)) {
      failure ??= new NbdClientError('EPROTO', 'the export changed between two connections to it');
    }
    group.#opened = true;
    if (failure === undefined) return group;
    // Those that stand are left by a soft disconnect.
    void group.disconnect(LEAVE_LIMIT_MS);
    throw failure;
  }

  get info(): ExportInfo {
    return this.#links[0]!.info;
  }

  /** How many connections there are. */
  get count(): number {
    return this.#links.length;
  }

  /** Sends on the connection with the fewest requests on their way. */
  send(request: ClientRequest): void {
    let best = this.#links[0]!;
    for (const link of this.#links) if (link.outstanding < best.outstanding) best = link;
    best.send(request);
  }

  /** Gives the connections up: `lost` is called with `reason`. */
  giveUp(reason: CodedError): void {
    this.#lost(reason);
  }

  /** The server shuts down: says goodbye on each; what is outstanding may still be answered, then `lost` is called. */
  leave(): void {
    for (const link of this.#links) link.leave(LEAVE_LIMIT_MS);
  }

  /** Says goodbye on each and closes; `lost` is not called. Within `limitMs`. */
  async disconnect(limitMs: number): Promise<void> {
    this.#over = true;
    await Promise.all(this.#links.map((link) => link.disconnect(limitMs)));
  }

  #lost(reason: CodedError): void {
    if (this.#over) return;
    if (!this.#opened) {
      this.#early ??= reason;
      return;
    }
    this.#destroy();
    this.#events.lost(reason);
  }

  #destroy(): void {
    this.#over = true;
    for (const link of this.#links) link.destroy();
  }
}
