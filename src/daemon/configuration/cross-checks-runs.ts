/** What no schema can say about how runs move a service: combinations, further addresses, rehearsals. */
import type { Cidr, IpAddress } from '../../netstack/index.ts';
import {
  cidrContains,
  formatCidr,
  formatIpAddress,
  isLinkLocal,
  parseCidr,
  parseIpAddress,
} from '../../netstack/index.ts';
import { COMBINATIONS, PROCEDURES } from '../../patch/index.ts';
import type { Configuration, FurtherAddress, ServiceConfiguration } from './configuration.ts';
import type { ConfigurationPath, Finding } from './problems.ts';
import { IN_ONE_NETWORK, pathText } from './problems.ts';

/** Reports through `findings`; `used` hears every address, to find those that occur twice. */
export function checkRuns(
  c: Configuration,
  findings: Finding[],
  used: (address: string, path: ConfigurationPath) => void,
): void {
  const value = (path: ConfigurationPath, message: string) =>
    findings.push({ path, at: 'value', message: `${pathText(path)} ${message}` });
  const { strategy, procedure } = c.patching;
  if (strategy !== 'auto' && procedure !== 'auto' && !COMBINATIONS[strategy][procedure].makesSense) {
    const fit = PROCEDURES.filter((p) => COMBINATIONS[strategy][p].makesSense).join(', ');
    value(
      ['patching', 'procedure'],
      `is ${procedure}, which makes no sense with strategy ${strategy}: ${COMBINATIONS[strategy][procedure].text}; allowed: auto, ${fit}`,
    );
  }
  const { address, address6, also } = c.network.probe;
  const probes = [address, address6, ...also].flatMap((text) => parseCidr(text ?? '') ?? []);
  for (const [i, text] of also.entries()) {
    const path = ['network', 'probe', 'also', i];
    const parsed = parseCidr(text);
    if (parsed === undefined) value(path, `is ${text}, no address with prefix length`);
    else used(formatIpAddress(parsed.address), path);
  }
  for (const [i, service] of c.services.entries()) {
    if ((procedure === 'H7' || procedure === 'H8') && service.second === undefined) {
      const path = ['services', i, 'second'];
      const message = `${pathText(path)} is missing: patching.procedure is ${procedure}, which needs a second address`;
      findings.push({ path: ['services', i], at: 'key', message });
    }
    for (const [j, pair] of service.also.entries()) {
      const path = ['services', i, 'also', j];
      for (const key of ['address', 'second'] as const) {
        const text = pair[key];
        if (text === undefined) continue;
        const wrong = outside(parseCidr(text), text, probes);
        if (wrong === undefined) used(formatIpAddress(parseCidr(text)!.address), [...path, key]);
        else value([...path, key], wrong);
      }
      checkPlace(c, service, pair, path, value);
      if (service.second !== undefined && pair.second === undefined) {
        const message = `${pathText([...path, 'second'])} is missing: a service with second has one for each of its addresses`;
        findings.push({ path, at: 'key', message });
      }
    }
    const { requests = [], recording } = service.rehearsal ?? {};
    const patterns = [
      ...requests.map((request, j) => ({ at: ['requests', j], of: request.ignoreText })),
      { at: ['recording'], of: recording?.ignoreText ?? [] },
    ];
    for (const { at, of } of patterns) {
      for (const [k, pattern] of of.entries()) {
        try {
          new RegExp(pattern);
        } catch (error) {
          const path = ['services', i, 'rehearsal', ...at, 'ignoreText', k];
          value(path, `is no regular expression: ${(error as Error).message}`);
        }
      }
    }
    if (service.rehearsal !== undefined && requests.length === 0 && recording === undefined) {
      const path = ['services', i, 'rehearsal'];
      const message = `${pathText(path)} has neither requests nor recording: there is nothing to rehearse`;
      findings.push({ path, at: 'key', message });
    }
  }
}

function outside(parsed: Cidr | undefined, text: string, probes: readonly Cidr[]): string | undefined {
  if (parsed === undefined) return `is ${text}, no address with prefix length`;
  const { address, prefixLength } = parsed;
  const fit = probes.filter((one) => typeof one.address === typeof address);
  if (fit.length === 0) return `is ${text}, but the probe has no address of its family`;
  if (fit.some((probe) => prefixLength === probe.prefixLength && cidrContains(probe, address)))
    return undefined;
  return `is ${text}, outside the network of the probe ${fit.map((probe) => formatCidr(probe)).join(', ')}; ${IN_ONE_NETWORK}`;
}

/** Device, second address and gateway of a further address. */
function checkPlace(
  c: Configuration,
  service: ServiceConfiguration,
  { address, second, device, gateway }: FurtherAddress,
  path: ConfigurationPath,
  value: (path: ConfigurationPath, message: string) => void,
): void {
  const devices = c.partitions.find(({ id }) => id === service.active)?.network.map((one) => one.name) ?? [];
  if (device !== undefined && devices.length > 0 && !devices.includes(device)) {
    value(
      [...path, 'device'],
      `is ${device}, no network device of ${service.active} has this name, allowed: ${devices.join(', ')}`,
    );
  }
  const network = parseCidr(address);
  if (network === undefined) return;
  const other = parseCidr(second ?? '');
  if (other !== undefined && !isIn(other.address, network)) {
    value([...path, 'second'], `is ${second}, outside the network of ${address}`);
  }
  if (gateway === undefined) return;
  const hop = parseIpAddress(gateway);
  const onDevice = device !== undefined && device !== devices[0];
  if (hop === undefined) value([...path, 'gateway'], `is ${gateway}, no address`);
  else if (!onDevice)
    value([...path, 'gateway'], 'is of no use on the first device, whose gateways are those of the service');
  else if (hop === network.address || !(isIn(hop, network) || (typeof hop === 'string' && isLinkLocal(hop))))
    value([...path, 'gateway'], `is ${gateway}, outside the network of ${address}, or that address itself`);
}

function isIn(address: IpAddress, network: Cidr): boolean {
  return typeof address === typeof network.address && cidrContains(network, address);
}
