// Grafana's own types (@grafana/schema) for the JSON of a dashboard with the panels that are used
// here. Enumerations are their values, as JSON has them.

import { Dashboard as AnyDashboard, Panel as AnyPanel, RowPanel, FieldConfig, DataSourceRef } from "@grafana/schema";
import * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import * as table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import * as timeseries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";
import * as states from "@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";

type Json<T> =
  unknown extends T ? T
  : T extends string ? `${T}`
  : T extends Array<infer U> ? Json<U>[]
  : T extends object ? { [K in keyof T]: Json<T[K]> }
  : T;

// A query to Prometheus: the schema of its plugin is not part of the package.
interface Query {
  datasource: DataSourceRef;
  editorMode: "code" | "builder";
  exemplar?: boolean;
  expr: string;
  format: "time_series" | "table" | "heatmap";
  hide?: boolean;
  instant: boolean;
  interval?: string;
  legendFormat: string;
  range: boolean;
  refId: string;
}

interface Link {
  targetBlank: boolean;
  title: string;
  url: string;
}

type Defaults<C> = Omit<FieldConfig, "custom" | "links"> & { custom?: C; links?: Link[] };

// Overrides name a field of Defaults, or one of custom.
type Property<D, C> =
  | { [K in keyof D & string]: { id: K; value: NonNullable<D[K]> } }[Exclude<keyof D & string, "custom">]
  | { [K in keyof C & string]: { id: `custom.${K}`; value: NonNullable<C[K]> } }[keyof C & string];

interface Config<C> {
  defaults: Defaults<C>;
  overrides: Array<{
    matcher: { id: "byName" | "byRegexp" | "byFrameRefID"; options: string };
    properties: Property<Required<Defaults<C>>, Required<C>>[];
  }>;
}

type Transformation =
  | { id: "merge"; options: {} }
  | {
      id: "organize";
      options: {
        excludeByName: Record<string, boolean>;
        indexByName: Record<string, number>;
        renameByName: Record<string, string>;
      };
    };

type Panel<Type extends string, Options, Custom> =
  Json<Omit<AnyPanel, "type" | "options" | "fieldConfig" | "targets" | "transformations">> & {
    type: Type;
    title: string;
    description: string;
    datasource: DataSourceRef;
    targets: Query[];
    options: Json<Options>;
    fieldConfig: Json<Config<Custom>>;
    transformations?: Transformation[];
  };

type Panels =
  | Json<Omit<RowPanel, "panels">> & { panels: never[] }
  | Panel<"stat", stat.Options, {}>
  | Panel<"table", table.Options, Partial<table.FieldConfig>>
  | Panel<"timeseries", timeseries.Options, timeseries.FieldConfig>
  | Panel<"state-timeline", states.Options, states.FieldConfig>;

type Variables = Omit<NonNullable<NonNullable<AnyDashboard["templating"]>["list"]>[number], "current"> & {
  current: { text?: string | string[]; value?: string | string[] };
  definition?: string;
};

export type Dashboard = Json<Omit<AnyDashboard, "panels" | "templating">> & {
  uid: string;
  title: string;
  templating: { list: Json<Variables>[] };
  panels: Panels[];
};
