/** What the routes call: the daemon, or in tests something of the same shape. */
import type { PortLimits, PortStatus } from '../../hypervisor/index.ts';
import type { RegisteredPatch, RunRequest, ScanResult } from '../../patch/index.ts';
import type { Configuration } from '../configuration/index.ts';
import type { CaptureRequest, CaptureResult, HistoryRequest } from './captures.ts';
import type { NetworkView, PartitionFigures } from './network.ts';
import type { RecordingView } from './recordings.ts';
import type { PartitionView, RunView, ServiceView, StatusView } from './views.ts';

export interface DaemonSurface {
  readonly configuration: Configuration;
  readonly manager: {
    list(): RegisteredPatch[];
    show(file: string): RegisteredPatch;
    flag(file: string): RegisteredPatch;
    unflag(file: string): RegisteredPatch;
    add(descriptionPath: string): RegisteredPatch;
    scan(): ScanResult;
  };
  readonly runs: {
    begin(request: RunRequest): Promise<RunView>;
    cut(id: string): RunView;
    rollback(id: string): RunView;
    commit(id: string): Promise<RunView>;
    cancel(id: string): Promise<RunView>;
    view(id: string): RunView;
    views(): RunView[];
    resolve(id: string): string;
  };
  readonly partitions: {
    views(): Promise<PartitionView[]>;
    view(id: string): Promise<PartitionView>;
    start(id: string): Promise<PartitionView>;
    stop(id: string, force: boolean): Promise<PartitionView>;
    figures(id: string): Promise<PartitionFigures>;
    console(id: string, bytes: number, from?: number): { text: string; end: number };
  };
  readonly captures: {
    running(): string[];
    start(request: CaptureRequest): Promise<{ file: string }>;
    history(request: HistoryRequest): Promise<{ file: string; packets: number; bytes: number }>;
    stop(file?: string): Promise<CaptureResult[]>;
  };
  readonly network: {
    view(): Promise<NetworkView>;
    limit(port: string, limits: PortLimits | null): Promise<PortStatus>;
    metrics(): Promise<string>;
  };
  status(): Promise<StatusView>;
  services(): Promise<ServiceView[]>;
  flows(service: string): Promise<unknown[]>;
  readonly recordings: { view(service: string): Promise<RecordingView> };
  requestShutdown(keepRunning: boolean): void;
}
