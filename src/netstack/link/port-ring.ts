/** Rings as a port has them, for both of its ends: the addon's, by their name in this repository. */
export { RING_HELLO, Ring as PortRing, type RingAnswer, ringsUsable } from 'tap-tun';
