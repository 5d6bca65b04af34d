/** What no schema can say about the IPv6 addresses of the configuration. IPv6 is a service's second family, never its only one. */
import type { Cidr } from '../../netstack/index.ts';
import {
  cidrContains,
  formatIpAddress,
  isLinkLocal,
  isLoopback,
  isMappedIpv4,
  isMulticast,
  isUnspecified,
  parseCidr,
  parseIpAddress,
} from '../../netstack/index.ts';
import type { Configuration, ServiceConfiguration } from './configuration.ts';
import type { ConfigurationPath, Finding } from './problems.ts';
import { IN_ONE_NETWORK, pathText } from './problems.ts';

/** RFC 8200 section 5. */
const IPV6_MIN_MTU = 1280;

type Say = (path: ConfigurationPath, message: string) => void;

/** Reports through `findings`; `used` hears every address, to find those that occur twice. */
export function checkIpv6(
  c: Configuration,
  findings: Finding[],
  used: (address: string, path: ConfigurationPath) => void,
): void {
  const value: Say = (path, message) =>
    findings.push({ path, at: 'value', message: `${pathText(path)} ${message}` });
  const missing: Say = (path, message) => {
    findings.push({
      path: path.slice(0, -1),
      at: 'key',
      message: `${pathText(path)} is missing: ${message}`,
    });
  };
  const probePath = ['network', 'probe', 'address6'];
  const probes = [c.network.probe.address6, ...c.network.probe.also.filter((text) => text.includes(':'))];
  const known = probes.flatMap((text) => host(text, probePath, value) ?? []);
  const usable = (text: string | undefined, path: ConfigurationPath): Cidr | undefined => {
    const network = host(text, path, value);
    if (network === undefined) return undefined;
    used(formatIpAddress(network.address), path);
    const isIn = (probe: Cidr) =>
      network.prefixLength === probe.prefixLength && cidrContains(probe, network.address);
    if (known.length > 0 && !known.some(isIn)) {
      value(
        path,
        `is ${text}, outside the network of network.probe.address6 ${probes.join(', ')}; ${IN_ONE_NETWORK}`,
      );
    }
    return network;
  };
  usable(c.network.probe.address6, probePath);
  for (const [i, uplink] of c.network.uplinks.entries()) {
    usable(uplink.hostAddress6, ['network', 'uplinks', i, 'hostAddress6']);
    const serves = c.services.some((service) => service.address6 !== undefined);
    if (serves && uplink.mtu < IPV6_MIN_MTU) {
      value(['network', 'uplinks', i, 'mtu'], `is ${uplink.mtu}, IPv6 needs at least ${IPV6_MIN_MTU}`);
    }
  }
  for (const [i, service] of c.services.entries()) {
    const at = (key: string): ConfigurationPath => ['services', i, key];
    const address = usable(service.address6, at('address6'));
    usable(service.second6, at('second6'));
    if (service.address6 === undefined) {
      for (const key of ['second6', 'gateway6'] as const) {
        if (service[key] !== undefined) missing(at('address6'), `${key} is of no use without it`);
      }
      continue;
    }
    if (c.network.probe.address6 === undefined) {
      missing(probePath, `${pathText(at('address6'))} could not be checked without it`);
    }
    if (service.second !== undefined && service.second6 === undefined) {
      missing(at('second6'), 'a service with second has one for each of its addresses');
    }
    if (service.second === undefined && service.second6 !== undefined) {
      missing(at('second'), 'a service with second6 has one for each of its addresses');
    }
    if (address !== undefined) checkGateway(service, address, at('gateway6'), value);
  }
}

/** An address that a host can have; what is wrong with it is told. */
function host(text: string | undefined, path: ConfigurationPath, say: Say): Cidr | undefined {
  if (text === undefined) return undefined;
  const parsed = parseCidr(text);
  if (parsed === undefined || typeof parsed.address === 'number') {
    say(path, `is ${text}, no IPv6 address with prefix length`);
    return undefined;
  }
  const { address } = parsed;
  if (
    isUnspecified(address) ||
    isLoopback(address) ||
    isMulticast(address) ||
    isLinkLocal(address) ||
    isMappedIpv4(address)
  ) {
    say(path, `is ${text}, which is no address of a host for others; use a global or unique local one`);
    return undefined;
  }
  return parsed;
}

function checkGateway(service: ServiceConfiguration, network: Cidr, path: ConfigurationPath, say: Say): void {
  if (service.gateway6 === undefined) return;
  const gateway = parseIpAddress(service.gateway6);
  if (gateway === undefined || typeof gateway === 'number')
    say(path, `is ${service.gateway6}, no IPv6 address`);
  else if (!isLinkLocal(gateway) && !cidrContains(network, gateway)) {
    say(path, `is ${service.gateway6}, outside the network of ${service.address6} and not link-local`);
  } else if (gateway === network.address || gateway === parseCidr(service.second6 ?? '')?.address) {
    say(path, `is ${service.gateway6}, the service's own address`);
  }
}
