/** One row of the route table: what dispatches requests is also what the OpenAPI document is made from. */

/** The part of JSON Schema that requests and answers are described in. */
export interface ApiSchema {
  readonly type?: 'object' | 'array' | 'string' | 'integer' | 'number' | 'boolean';
  readonly description?: string;
  readonly enum?: readonly unknown[];
  readonly default?: unknown;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly pattern?: string;
  readonly items?: ApiSchema;
  readonly required?: readonly string[];
  readonly properties?: Readonly<Record<string, ApiSchema>>;
  readonly additionalProperties?: boolean;
}

export interface RouteRequest {
  /** Values of the `{name}` parts of the path. */
  readonly parameters: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** Checked against `body`; `{}` when the route takes none. */
  readonly body: Readonly<Record<string, unknown>>;
}

export interface Route {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  /** With `{name}` parts: `/partitions/{id}`. */
  readonly path: string;
  readonly summary: string;
  readonly query?: Readonly<Record<string, ApiSchema>>;
  readonly body?: ApiSchema;
  /** Status of success, default 200. */
  readonly status?: number;
  readonly answer: ApiSchema;
  /** Of an answer that is a text and no JSON. */
  readonly contentType?: string;
  readonly handle: (request: RouteRequest) => Promise<unknown> | unknown;
}

export interface RouteMatch {
  readonly route: Route;
  readonly parameters: Readonly<Record<string, string>>;
}

function matchPath(pattern: string, path: string): Record<string, string> | undefined {
  const wanted = pattern.split('/');
  const given = path.split('/');
  if (wanted.length !== given.length) return undefined;
  const parameters: Record<string, string> = {};
  for (const [i, part] of wanted.entries()) {
    const value = given[i] ?? '';
    if (part.startsWith('{')) {
      if (value === '') return undefined;
      try {
        parameters[part.slice(1, -1)] = decodeURIComponent(value);
      } catch {
        return undefined;
      }
    } else if (part !== value) return undefined;
  }
  return parameters;
}

/** The route for a request, or the methods that its path knows (none: the path is unknown). */
export function findRoute(
  routes: readonly Route[],
  method: string,
  path: string,
): RouteMatch | { readonly allowed: string[] } {
  const allowed: string[] = [];
  for (const route of routes) {
    const parameters = matchPath(route.path, path);
    if (parameters === undefined) continue;
    if (route.method === method) return { route, parameters };
    allowed.push(route.method);
  }
  return { allowed };
}
