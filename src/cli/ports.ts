import type { NetworkView } from '../daemon/index.ts';
import { bytesText, tableLines } from './format.ts';

type Port = NetworkView['ports'][number];

function rateText(limits: Port['limits']): string {
  const one = (rate: NonNullable<Port['limits']>['send']) => [
    ...(rate?.bytesPerSecond === undefined ? [] : [`${bytesText(rate.bytesPerSecond)}/s`]),
    ...(rate?.packetsPerSecond === undefined ? [] : [`${rate.packetsPerSecond} packets/s`]),
  ];
  const parts = [
    ...one(limits?.send).map((text) => `sends ${text}`),
    ...one(limits?.receive).map((text) => `gets ${text}`),
    ...(limits?.queueBytes === undefined ? [] : [`queue ${bytesText(limits.queueBytes)}`]),
  ];
  return parts.join(', ');
}

/** Ports of a mux as a table. */
export function portLines(ports: readonly Port[]): string[] {
  return tableLines(
    ['port', 'role', 'state', 'in', '', 'out', '', 'limits', 'held back', 'dropped'],
    ports.map((port) => [
      port.name,
      port.kind === 'stream' ? port.role : `${port.role} (${port.kind})`,
      port.carrier === undefined ? port.state : `${port.state} (${port.carrier})`,
      String(port.received),
      bytesText(port.receivedBytes),
      String(port.transmitted),
      bytesText(port.transmittedBytes),
      rateText(port.limits),
      port.heldBack === undefined ? '' : String(port.heldBack),
      Object.entries(port.drops)
        .map(([reason, count]) => `${count} ${reason}`)
        .join(', '),
    ]),
  );
}
