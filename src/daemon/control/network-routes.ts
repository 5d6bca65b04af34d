/** Routes about the mux: ports, limits, metrics. */
import type { PortLimits } from '../../hypervisor/index.ts';
import type { ApiSchema, Route } from '../api/index.ts';
import type { DaemonSurface } from './surface.ts';

const OBJECT: ApiSchema = { type: 'object', additionalProperties: true };
const AMOUNT: ApiSchema = { type: 'integer', minimum: 1 };
const RATE: ApiSchema = {
  type: 'object',
  properties: { bytesPerSecond: AMOUNT, packetsPerSecond: AMOUNT, burstBytes: AMOUNT, burstPackets: AMOUNT },
  additionalProperties: false,
};

export function networkRoutes(d: DaemonSurface): Route[] {
  return [
    {
      method: 'GET',
      path: '/network',
      summary: 'Ports and uplinks of the mux with their counters, limits and drops by reason.',
      answer: { ...OBJECT, description: '{ports: PortStatus[], counters}' },
      handle: () => d.network.view(),
    },
    {
      method: 'PUT',
      path: '/network/ports/{name}/limits',
      summary: 'Replaces the limits of a port; an empty body takes them away.',
      body: {
        type: 'object',
        properties: { send: RATE, receive: RATE, queueBytes: AMOUNT },
        additionalProperties: false,
      },
      answer: { ...OBJECT, description: 'PortStatus' },
      handle: ({ parameters, body }) =>
        d.network.limit(
          parameters['name'] ?? '',
          Object.keys(body).length === 0 ? null : (body as PortLimits),
        ),
    },
    {
      method: 'GET',
      path: '/metrics',
      summary: 'The same in the text format of Prometheus.',
      contentType: 'text/plain; version=0.0.4; charset=utf-8',
      answer: { type: 'string' },
      handle: () => d.network.metrics(),
    },
  ];
}
