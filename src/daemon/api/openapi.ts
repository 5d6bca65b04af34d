import type { ApiSchema, Route } from './route.ts';

const ERROR_SCHEMA: ApiSchema = {
  type: 'object',
  required: ['error'],
  properties: {
    error: {
      type: 'object',
      required: ['code', 'message'],
      properties: {
        code: { type: 'string', description: 'Stable, for programs.' },
        message: { type: 'string', description: 'One sentence: what and where.' },
        remedy: { type: 'string', description: 'What to do next.' },
        values: { type: 'object', additionalProperties: true },
      },
    },
  },
};

function operationId(route: Route): string {
  const words = route.path.split('/').filter((part) => part !== '');
  const name = words.map((w) => w.replace(/^\{(.*)\}$/, 'By-$1').replace(/[^A-Za-z0-9-]/g, '-')).join('-');
  return `${route.method.toLowerCase()}-${name}`;
}

/** The OpenAPI 3.1 description of the routes, and of the event stream beside them. */
export function openApiDocument(routes: readonly Route[], version: string): object {
  const paths: Record<string, Record<string, object>> = {};
  for (const route of routes) {
    const inPath = [...route.path.matchAll(/\{([^}]+)\}/g)].map((m) => ({
      name: m[1],
      in: 'path',
      required: true,
      schema: { type: 'string' },
    }));
    const inQuery = Object.entries(route.query ?? {}).map(([name, schema]) => ({
      name,
      in: 'query',
      required: false,
      schema,
    }));
    const parameters = [...inPath, ...inQuery];
    const operations = paths[route.path] ?? {};
    operations[route.method.toLowerCase()] = {
      operationId: operationId(route),
      summary: route.summary,
      ...(parameters.length === 0 ? {} : { parameters }),
      ...(route.body === undefined
        ? {}
        : {
            requestBody: {
              required: (route.body.required ?? []).length > 0,
              content: { 'application/json': { schema: route.body } },
            },
          }),
      responses: {
        [String(route.status ?? 200)]: {
          description: 'Done.',
          content: {
            [route.contentType?.split(';')[0] ?? 'application/json']: { schema: route.answer },
          },
        },
        default: {
          description: 'Not done.',
          content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
        },
      },
    };
    paths[route.path] = operations;
  }
  paths['/events'] = {
    get: {
      operationId: 'get-events',
      summary:
        'Server-sent events: `id`, `event` (type) and `data` (JSON {atMs, data}). `Last-Event-ID` or ?since=N replays what is still known.',
      parameters: [{ name: 'since', in: 'query', required: false, schema: { type: 'integer' } }],
      responses: { '200': { description: 'The stream.', content: { 'text/event-stream': {} } } },
    },
  };
  return {
    openapi: '3.1.0',
    info: {
      title: 'Changeover',
      version,
      description: 'Control of the daemon, on the unix socket api.sock of its run directory.',
    },
    servers: [{ url: 'http://localhost', description: 'over the unix socket' }],
    paths,
    components: { schemas: { Error: ERROR_SCHEMA } },
  };
}
