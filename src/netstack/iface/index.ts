export * from './address-table.ts';
export * from './arp-cache.ts';
export * from './icmp-handler.ts';
export * from './interface.ts';
export * from './path-mtu.ts';
export * from './rate-limit.ts';
export * from './reassembly.ts';
export * from './transport-interface.ts';
