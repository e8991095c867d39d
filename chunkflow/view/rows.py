"""A widget of napari: click an object, a branch or a node, and see its row of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from napari.layers import Labels, Points, Vectors
from qtpy.QtWidgets import QLabel, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget

HINT = "Click an object, or hover over it."


class ObjectRows(QWidget):  # type: ignore[misc]
    """Column and value of the row that belongs to what was clicked in the layer that is selected."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.title = QLabel(HINT)
        self.table = QTableWidget(0, 2)
        self.table.setHorizontalHeaderLabels(["column", "value"])
        columns: Any = self.table.horizontalHeader()
        columns.setStretchLastSection(True)
        rows: Any = self.table.verticalHeader()
        rows.setVisible(False)
        layout = QVBoxLayout(self)
        layout.addWidget(self.title)
        layout.addWidget(self.table)
        napari_viewer.mouse_drag_callbacks.append(self._clicked)

    def _clicked(self, viewer: Any, event: Any) -> None:
        self.show_at(event.position, event.view_direction, event.dims_displayed)

    def show_at(self, position: Any, view_direction: Any = None, dims_displayed: Any = None) -> None:
        """Show the row of what lies at a world position, in the selected layer or else among the objects."""
        for layer in self._candidates():
            options = {"view_direction": view_direction, "dims_displayed": dims_displayed, "world": True}
            row = self._row(layer, layer.get_value(position, **options))
            if row is not None:
                self.show_row(*row)
                return
        self.title.setText(HINT)
        self.table.setRowCount(0)

    def _candidates(self) -> Iterator[Any]:
        active = self._viewer.layers.selection.active
        if isinstance(active, Labels | Points | Vectors):
            yield active
        if "objects" in self._viewer.layers and self._viewer.layers["objects"] is not active:
            yield self._viewer.layers["objects"]

    def _row(self, layer: Any, value: Any) -> tuple[str, pd.Series[Any]] | None:
        """Title and row of a value that a layer has at a place; None of background."""
        if isinstance(value, tuple):  # of a pyramid: level, value
            value = value[1]
        if value is None:
            return None
        if not isinstance(layer, Labels):
            return f"{layer.name} {int(value)}", layer.features.iloc[int(value)]
        if int(value) == 0:
            return None
        rows = layer.features
        found = rows[rows["index"] == value] if "index" in rows else rows.iloc[:0]
        row = found.iloc[0].drop("index") if len(found) else pd.Series({"object_id": int(value)})
        return f"{layer.name} {int(value)}", row

    def show_row(self, title: str, row: pd.Series[Any]) -> None:
        """Fill the table."""
        self.title.setText(title)
        self.table.setRowCount(len(row))
        for line, (name, value) in enumerate(row.items()):
            self.table.setItem(line, 0, QTableWidgetItem(str(name)))
            self.table.setItem(line, 1, QTableWidgetItem(_text(value)))
        self.table.resizeColumnToContents(0)


def _text(value: Any) -> str:
    """A value as a reader wants it: integers that a missing value had turned into floats are integers again."""
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating):
        number = float(value)
        return f"{int(number)}" if number.is_integer() and abs(number) < 1e15 else f"{number:.6g}"
    return str(value)
