/** Checks a plain value against the schema and fills in its defaults. */
import type { ErrorObject } from 'ajv';
import { Ajv } from 'ajv';
import type { ConfigurationPath, Finding } from './problems.ts';
import { nearestName, pathText } from './problems.ts';
import type { ConfigurationSchema } from './schema.ts';

const TYPE_WORDS: Readonly<Record<string, string>> = {
  object: 'a mapping',
  array: 'a list',
  string: 'a text',
  integer: 'a whole number',
  boolean: 'true or false',
};

function pathOf(pointer: string, root: unknown): ConfigurationPath {
  const path: (string | number)[] = [];
  let value = root;
  for (const part of pointer.split('/').slice(1)) {
    const key = part.replace(/~1/g, '/').replace(/~0/g, '~');
    path.push(Array.isArray(value) ? Number(key) : key);
    value = (value as Record<string, unknown>)[key];
  }
  return path;
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return 'empty';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'a mapping';
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}

function findingOf(error: ErrorObject, root: unknown): Finding {
  const path = pathOf(error.instancePath, root);
  const schema = error.parentSchema as ConfigurationSchema;
  const where = pathText(path);
  const is = `${where} is ${shown(error.data)}`;
  const hint = schema.hint === undefined ? '' : `, it must be ${schema.hint}`;
  const params = error.params as Record<string, unknown>;
  switch (error.keyword) {
    case 'additionalProperties': {
      const key = String(params['additionalProperty']);
      const known = Object.keys(schema.properties ?? {});
      const near = nearestName(key, known);
      const mean = near === undefined ? '' : `, did you mean "${near}"?`;
      const message = `unknown key "${key}" in ${where}${mean}${mean === '' ? ',' : ''} allowed: ${known.join(', ')}`;
      return { path: [...path, key], at: 'key', message };
    }
    case 'required': {
      const key = String(params['missingProperty']);
      const missing = schema.properties?.[key];
      const what = missing?.description === undefined ? '' : `: ${missing.description.replace(/\.$/, '')}`;
      const form = missing?.hint === undefined ? '' : ` (${missing.hint})`;
      return { path, at: 'key', message: `${pathText([...path, key])} is missing${what}${form}` };
    }
    case 'type':
      return {
        path,
        at: 'value',
        message: `${is}, it must be ${schema.hint ?? TYPE_WORDS[String(params['type'])] ?? 'another type'}`,
      };
    case 'enum':
      return { path, at: 'value', message: `${is}, allowed: ${(schema.enum ?? []).join(', ')}` };
    case 'minimum':
    case 'maximum':
      return {
        path,
        at: 'value',
        message: `${is}, allowed: ${schema.minimum ?? '-∞'} to ${schema.maximum ?? '∞'}`,
      };
    case 'minItems':
      return { path, at: 'value', message: `${where} is an empty list, at least one entry is needed` };
    case 'minLength':
      return { path, at: 'value', message: `${where} is an empty text` };
    default:
      return { path, at: 'value', message: `${is}${hint}` };
  }
}

function within(pointer: string, outer: string): boolean {
  return pointer === outer || pointer.startsWith(`${outer}/`);
}

/** Of the errors of a `oneOf`, keeps those of the alternative that was meant, or only the hint when none was. */
function withoutAlternatives(errors: readonly ErrorObject[]): ErrorObject[] {
  let kept = errors.filter((e) => e.keyword !== 'enum' || typeof e.data === 'string');
  for (const choice of errors) {
    if (choice.keyword !== 'oneOf') continue;
    const schema = choice.parentSchema as ConfigurationSchema;
    const keys =
      typeof choice.data === 'object' && choice.data !== null ? Object.keys(choice.data as object) : [];
    const meant = (schema.oneOf ?? []).findIndex((s) => keys.length === 1 && s.required?.[0] === keys[0]);
    kept = kept.filter((error) => {
      if (error === choice) return meant === -1;
      const inside =
        error.schemaPath.startsWith(`${choice.schemaPath}/`) &&
        within(error.instancePath, choice.instancePath);
      return !inside || (meant !== -1 && error.schemaPath.startsWith(`${choice.schemaPath}/${meant}/`));
    });
  }
  return kept;
}

const ajv = new Ajv({ allErrors: true, verbose: true, allowUnionTypes: false });
ajv.addKeyword({ keyword: 'hint', schemaType: 'string' });
const compiled = new WeakMap<ConfigurationSchema, ReturnType<typeof ajv.compile>>();

export function checkAgainstSchema(schema: ConfigurationSchema, value: unknown): Finding[] {
  let validate = compiled.get(schema);
  if (validate === undefined) {
    validate = ajv.compile(schema);
    compiled.set(schema, validate);
  }
  if (validate(value)) return [];
  return withoutAlternatives(validate.errors ?? []).map((error) => findingOf(error, value));
}

/** A copy of a valid value with the schema's defaults where keys are absent. */
export function withDefaults(schema: ConfigurationSchema, value: unknown): unknown {
  if (schema.oneOf !== undefined) {
    const branch = schema.oneOf.find((s) =>
      typeof value === 'object' && value !== null
        ? s.required?.every((key) => Object.hasOwn(value, key))
        : s.const === value,
    );
    return branch === undefined ? value : withDefaults(branch, value);
  }
  if (Array.isArray(value)) return value.map((v) => withDefaults(schema.items ?? {}, v));
  if (typeof value !== 'object' || value === null) return value;
  const filled: Record<string, unknown> = {};
  for (const [key, property] of Object.entries(schema.properties ?? {})) {
    const given = (value as Record<string, unknown>)[key];
    const chosen = given === undefined ? property.default : given;
    if (chosen !== undefined) filled[key] = withDefaults(property, chosen);
  }
  return filled;
}
