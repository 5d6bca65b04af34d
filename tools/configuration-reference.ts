/**
 * Writes docs/configuration.md from the schema: `node tools/configuration-reference.ts`; with `--check` it says whether the
 * file is what it would write (exit 1 when not).
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ConfigurationSchema } from '../src/daemon/configuration/index.ts';
import { CONFIGURATION_SCHEMA, CONFIGURATION_TEMPLATE } from '../src/daemon/configuration/index.ts';

const FILE = join(import.meta.dirname, '../docs/configuration.md');

const INTRODUCTION = `# Configuration

One YAML file, by default \`changeover.yaml\` in the current folder, then \`/etc/changeover/changeover.yaml\`; \`--config FILE\` and
\`$CHANGEOVER_CONFIG\` name another. \`changeover init\` writes a commented one, \`changeover doctor\` checks it together with the host.
Relative paths start at the folder of the file. It is read when the daemon starts; to change it, edit it and start the daemon anew
(\`changeover down --keep-running && changeover up --detach\` keeps partitions running; a partition takes changes at its next start).

An unknown key is an error. Every error is one line, all of one stage are told at once:
\`\`\`
changeover.yaml:19:5: unknown key "adress" in services[0], did you mean "address"? allowed: name, address, second, …
changeover.yaml:11:12: network.uplinks[0].mtu is 15, allowed: 576 to 9000
\`\`\`

## Checked beyond the tables below
- Addresses of services, second addresses, probe and hosts are all different, in a network in which the probe has an address (\`network.probe.address\`, \`address6\`, \`also\`), and neither its own nor its broadcast address;
  a gateway lies in the network.
- The same for IPv6, which is a second family beside IPv4: \`address6\` needs \`network.probe.address6\`, a \`second\` needs a \`second6\`, a
  \`gateway6\` may be link-local, an uplink needs an MTU of 1280. Addresses are global or unique local; IPv6 text stands in quotation marks in flow style.
- \`also\`: as \`address\` and \`second\`, both in one network; \`device\` names a network device of the active partition; a \`gateway\` lies in that network and goes with a device
  other than the first.
- \`patching.procedure\` makes sense with \`patching.strategy\` (docs/patching.md has the table); \`H7\` and \`H8\` need second addresses.
- \`active\` names a partition with a network device; a partition is the active one of at most one service.
- Partition ids, service, source and uplink names are unique; so are image paths and MACs (compared in lower case).
- A MAC is unicast and locally administered: its first byte ends in 2, 6, a or e.
- A partition has one \`system\` disk and at most one \`application\` disk.
- The shares of one processor add up to at most 100 %.
- \`strategy: overlap\` needs a second address in every service.
- A patch source needs a \`publicKey\` unless \`allowUnsigned\` is true.
- \`runDirectory\` has at most 60 bytes (socket paths are short) and is not \`stateDirectory\`.
`;

const OUTRO = `
## The file that \`changeover init\` writes
\`\`\`yaml
${CONFIGURATION_TEMPLATE}\`\`\`

This page is generated from the schema (\`src/daemon/configuration/schema.ts\`) by \`tools/configuration-reference.ts\`; the test run checks that it is current.
`;

function allowed(schema: ConfigurationSchema): string {
  if (schema.enum !== undefined) return schema.enum.map((v) => `\`${String(v)}\``).join(', ');
  if (schema.const !== undefined) return `\`${String(schema.const)}\``;
  if (schema.hint !== undefined) return schema.hint;
  if (schema.type === 'integer') return `${schema.minimum} to ${schema.maximum}`;
  if (schema.type === 'boolean') return '`true`, `false`';
  if (schema.type === 'array') {
    return (schema.minItems ?? 0) > 0 ? `list, at least ${schema.minItems}` : 'list, may be empty';
  }
  return schema.type === 'object' ? 'mapping' : 'text';
}

function shownDefault(schema: ConfigurationSchema, required: boolean): string {
  if (required) return '**required**';
  if (schema.default === undefined) return '–';
  return typeof schema.default === 'object' ? 'as below' : `\`${String(schema.default)}\``;
}

const cell = (text: string) => text.replaceAll('|', '\\|');

function table(schema: ConfigurationSchema): string[] {
  const rows = Object.entries(schema.properties ?? {}).map(([key, property]) => {
    const required = schema.required?.includes(key) === true;
    return `| \`${key}\` | ${cell(property.description ?? '')} | ${cell(allowed(property))} | ${shownDefault(property, required)} |`;
  });
  return ['| key | what it is | allowed | default |', '|---|---|---|---|', ...rows];
}

/** A section per mapping, in the order of the schema, named by its path. */
function sections(path: string, schema: ConfigurationSchema): string[] {
  if (schema.oneOf !== undefined) {
    return schema.oneOf.flatMap((branch) =>
      Object.entries(branch.properties ?? {}).flatMap(([key, property]) =>
        sections(`${path}.${key}`, property),
      ),
    );
  }
  if (schema.type === 'array') return sections(`${path}[]`, schema.items ?? {});
  if (schema.type !== 'object') return [];
  const title = path === '' ? 'The file' : `\`${path}\``;
  const below = Object.entries(schema.properties ?? {}).flatMap(([key, property]) =>
    sections(path === '' ? key : `${path}.${key}`, property),
  );
  return ['', `## ${title}`, schema.description ?? '', '', ...table(schema), ...below];
}

export function configurationReference(): string {
  return `${INTRODUCTION}${sections('', CONFIGURATION_SCHEMA).join('\n')}\n${OUTRO}`;
}

if (process.argv[1] === import.meta.filename) {
  const wanted = configurationReference();
  if (process.argv.includes('--check')) {
    if (readFileSync(FILE, 'utf8') !== wanted) {
      console.error('docs/configuration.md is not current: run node tools/configuration-reference.ts');
      process.exitCode = 1;
    }
  } else writeFileSync(FILE, wanted);
}
