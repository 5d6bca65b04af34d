import type { RecordingView, ServiceView } from '../../daemon/index.ts';
import type { ExitCode } from '../exit-codes.ts';
import { EXIT } from '../exit-codes.ts';
import { durationText, tableLines } from '../format.ts';
import type { Session } from '../session.ts';

function lines({ service, recording, requests, connections, refused }: RecordingView): string[] {
  if (!recording) return [`${service}: nothing is recorded: see services[].rehearsal.recording`];
  const { followed, passedOver, givenUp } = connections;
  return [
    `${service}: ${requests.length} requests out of ${followed} connections (${passedOver} more passed over, ${givenUp} given up, ${refused} requests left out)`,
    ...(requests.length === 0
      ? []
      : tableLines(
          ['method', 'path', 'times', 'last'],
          requests.map((one) => [one.method, one.path, String(one.count), `${durationText(one.ageMs)} ago`]),
        )),
  ];
}

/** JSON: {recorded: RecordingView[]}. */
export async function recorded(session: Session, args: readonly string[]): Promise<ExitCode> {
  const api = await session.api();
  const [name] = args;
  const names =
    name === undefined
      ? (await api.get<{ services: ServiceView[] }>('/services')).services.map((service) => service.name)
      : [name];
  const views = await Promise.all(
    names.map((one) => api.get<RecordingView>(`/services/${encodeURIComponent(one)}/recorded`)),
  );
  session.result({ recorded: views }, () => views.flatMap(lines));
  return EXIT.done;
}
