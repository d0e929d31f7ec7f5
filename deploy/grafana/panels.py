"""What the dashboards are made of: panels with one manner of legend, unit and height, and the variables that they share."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import (
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    VariableHide,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

# A query and the name of its series.
Target = tuple[str, str]

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
JOB = 'job=~"$job"'
FLEET = f'{JOB},project=~"$project"'
RUN = f'{FLEET},run=~"$run"'
SERVER = f'{JOB},instance=~"$instance"'

# Grafana's grid has 24 columns; a panel is a third of it, a row of them eight units high.
_THIRD, _HEIGHT = 8, 8


def graph(
    title: str,
    says: str,
    *targets: Target,
    unit: str = "short",
    log: bool = False,
    points: bool = False,
    exemplars: bool = False,
    span: int = _THIRD,
) -> timeseries.Panel:
    """Lines over time.

    Args:
        title: what it shows.
        says: how to read it.
        targets: queries and names of their series.
        unit: Grafana's name of the unit.
        log: a logarithmic axis; for norms, which grow by orders of magnitude.
        points: points instead of lines; for what happens now and then.
        exemplars: show them; they lead from a slow request to a run.
        span: columns of 24.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(says)
        .datasource(SOURCE)
        .unit(unit)
        .span(span)
        .height(_HEIGHT)
        .line_width(1)
        .fill_opacity(0)
        .draw_style(GraphDrawStyle.POINTS if points else GraphDrawStyle.LINE)
        .show_points(VisibilityMode.AUTO)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if log:
        panel = panel.scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    for index, (expression, legend) in enumerate(targets):
        panel = panel.with_target(_query(index, expression, legend).exemplar(exemplars))
    return panel


def number(
    title: str,
    says: str,
    *targets: Target,
    unit: str = "short",
    warn: float | None = None,
    alarm: float | None = None,
    span: int = 4,
) -> stat.Panel:
    """One large number for each series, as of now; yellow from `warn` and red from `alarm` on."""
    steps = [Threshold(value=None, color="green")]
    if warn is not None:
        steps.append(Threshold(value=warn, color="yellow"))
    if alarm is not None:
        steps.append(Threshold(value=alarm, color="red"))
    panel = stat.Panel().title(title).description(says).datasource(SOURCE).unit(unit).span(span).height(4)
    panel = panel.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    for index, (expression, legend) in enumerate(targets):
        panel = panel.with_target(_query(index, expression, legend).instant())
    return panel


def rows(title: str, says: str, *columns: Target) -> table.Panel:
    """A table with one row for each run and one column for each query, which must be `by (project, run)`."""
    panel = table.Panel().title(title).description(says).datasource(SOURCE).span(24).height(_HEIGHT + 2)
    names = {}
    for index, (expression, name) in enumerate(columns):
        panel = panel.with_target(_query(index, expression, name).instant().format(PromQueryFormat.TABLE))
        names[f"Value #{_reference(index)}"] = name
    return panel.with_transformation(DataTransformerConfig(id_val="merge", options={})).with_transformation(
        DataTransformerConfig(id_val="organize", options={"excludeByName": {"Time": True}, "renameByName": names})
    )


def board(uid: str, title: str, says: str, *variables: dashboard.QueryVariable) -> dashboard.Dashboard:
    """An empty dashboard with seismograd's alerts as annotations. Its uid is for ever: links hold it."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(says)
        .tags(["seismograd"])
        .readonly()
        .refresh("15s")
        .time("now-1h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("job", "Job", "seismograd_build_info", "job"))
        .link(
            dashboard.DashboardLink("seismograd")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["seismograd"])
            .keep_time(True)
            .include_vars(True)
        )
    )
    for each in variables:
        made = made.with_variable(each)
    return made


def annotated(made: dashboard.Dashboard, expression: str, title: str) -> dashboard.Dashboard:
    """The dashboard with a mark for each time that the query gives something."""
    return made.annotation(
        dashboard.AnnotationQuery().name(title).datasource(SOURCE).enable(True).icon_color("red").expr(expression)
    )


def variable(name: str, label: str, series: str, of: str) -> dashboard.QueryVariable:
    """A choice among the values of a label; what has ended within the shown time can still be chosen."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"query_result(max by ({of}) (last_over_time({series}[$__range])))")
        .regex(f'/{of}="([^"]+)"/')
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .hide(VariableHide.DONT_HIDE)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def project() -> dashboard.QueryVariable:
    """Which projects."""
    return variable("project", "Project", f"seismograd_run_info{{{JOB}}}", "project")


def _query(index: int, expression: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(_reference(index)).datasource(SOURCE).expr(expression).legend_format(legend)


def _reference(index: int) -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[index]


Panels = Sequence[timeseries.Panel | stat.Panel | table.Panel]


def filled(made: dashboard.Dashboard, groups: Sequence[tuple[str, Panels]]) -> dashboard.Dashboard:
    """The dashboard with its rows of panels."""
    for title, panels in groups:
        made = made.with_row(dashboard.Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    return made
