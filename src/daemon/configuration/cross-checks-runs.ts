/** What no schema can say about how runs move a service: combinations, further addresses, rehearsals. */
import type { Cidr } from '../../netstack/index.ts';
import { cidrContains, formatIpAddress, parseCidr } from '../../netstack/index.ts';
import { COMBINATIONS, PROCEDURES } from '../../patch/index.ts';
import type { Configuration } from './configuration.ts';
import type { ConfigurationPath, Finding } from './problems.ts';
import { pathText } from './problems.ts';

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
  const probes = [c.network.probe.address, c.network.probe.address6].flatMap(
    (text) => parseCidr(text ?? '') ?? [],
  );
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
      if (service.second !== undefined && pair.second === undefined) {
        const message = `${pathText([...path, 'second'])} is missing: a service with second has one for each of its addresses`;
        findings.push({ path, at: 'key', message });
      }
    }
    for (const [j, request] of (service.rehearsal?.requests ?? []).entries()) {
      for (const [k, pattern] of request.ignoreText.entries()) {
        try {
          new RegExp(pattern);
        } catch (error) {
          const path = ['services', i, 'rehearsal', 'requests', j, 'ignoreText', k];
          value(path, `is no regular expression: ${(error as Error).message}`);
        }
      }
    }
  }
}

function outside(parsed: Cidr | undefined, text: string, probes: readonly Cidr[]): string | undefined {
  if (parsed === undefined) return `is ${text}, no address with prefix length`;
  const { address, prefixLength } = parsed;
  const probe = probes.find((one) => typeof one.address === typeof address);
  if (probe === undefined) return `is ${text}, but the probe has no address of its family`;
  if (prefixLength === probe.prefixLength && cidrContains(probe, address)) return undefined;
  return `is ${text}, outside the network of the probe ${formatIpAddress(probe.address)}/${probe.prefixLength}; all addresses must be in one network`;
}
