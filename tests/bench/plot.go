// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bytes"
	_ "embed"
	"fmt"
	"math"
	"strings"
	"text/template"
)

//go:embed plot.svg.tmpl
var plotTemplate string

// The area of the plot, in the units of the SVG.
const (
	plotLeft, plotRight = 80.0, 620.0
	plotTop, plotBottom = 50.0, 300.0
)

// plot is the data of the template.
type plot struct {
	Description              string
	Left, Right, Top, Bottom float64
	X, Y                     []tick
	Lines                    []line
	Floors                   []floorLine
}

// floorLine is a figure of the floor, which holds for any number of roles.
type floorLine struct {
	Class, Label string
	At           float64
}

type tick struct {
	At    float64
	Label string
}

// line is one line of the plot; its points are [x, y].
type line struct {
	Class, Label string
	LabelAt      float64
	Points       [][2]float64
}

// Polyline returns the points in the form of SVG.
func (l line) Polyline() string {
	var points []string
	for _, p := range l.Points {
		points = append(points, fmt.Sprintf("%.1f,%.1f", p[0], p[1]))
	}
	return strings.Join(points, " ")
}

// Plot draws the latency of reads by the number of roles, and that of the floor, as
// SVG.
func (r *Result) Plot() ([]byte, error) {
	lines := []struct {
		class, label string
		of           figure
		values       []float64
		floor        float64
	}{
		{class: "p99", label: "p99", of: p99},
		{class: "p50", label: "p50", of: p50},
	}
	highest := 0.0
	for i := range lines {
		for _, n := range r.Run.Roles {
			value := r.find(withRoles(n), 1).median(lines[i].of)
			lines[i].values = append(lines[i].values, value)
			highest = max(highest, value)
		}
		lines[i].floor = r.find(of(floor, static), 1).median(lines[i].of)
		highest = max(highest, lines[i].floor)
	}
	if highest == 0 || len(r.Run.Roles) == 0 {
		return nil, fmt.Errorf("the result has no reads by the number of roles")
	}

	p := plot{Left: plotLeft, Right: plotRight, Top: plotTop, Bottom: plotBottom}
	step := niceStep(highest / 5)
	top := step * math.Ceil(highest/step)
	y := func(value float64) float64 { return plotBottom - (plotBottom-plotTop)*value/top }
	x := func(i int) float64 {
		return plotLeft + (plotRight-plotLeft)*(float64(i)+0.5)/float64(len(r.Run.Roles))
	}
	for i := range int(math.Round(top/step)) + 1 {
		p.Y = append(p.Y, tick{y(float64(i) * step), fmt.Sprintf("%g ms", math.Round(float64(i)*step*1000)/1000)})
	}
	for i, n := range r.Run.Roles {
		p.X = append(p.X, tick{x(i), count(n)})
	}
	for _, l := range lines {
		drawn := line{Class: l.class, Label: l.label}
		for i, value := range l.values {
			drawn.Points = append(drawn.Points, [2]float64{x(i), y(value)})
		}
		drawn.LabelAt = drawn.Points[len(drawn.Points)-1][1]
		p.Lines = append(p.Lines, drawn)
		p.Floors = append(p.Floors, floorLine{l.class, "floor, " + l.label, y(l.floor)})
		p.Description += fmt.Sprintf(" %s: %s; the floor, dashed: %.2f ms.", l.label, listed(r.Run.Roles, l.values), l.floor)
	}
	return p.draw()
}

func (p plot) draw() ([]byte, error) {
	t, err := template.New("plot").Funcs(template.FuncMap{"add": func(a, b float64) float64 { return a + b }}).Parse(plotTemplate)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, p); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// niceStep returns the smallest of 1, 2, 5, 10, … (and 0.5, 0.2, …) that is not
// less.
func niceStep(least float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(least)))
	for _, step := range []float64{1, 2, 5} {
		if step*power >= least {
			return step * power
		}
	}
	return 10 * power
}

// listed describes a line in words.
func listed(roles []int, values []float64) string {
	var parts []string
	for i, n := range roles {
		parts = append(parts, fmt.Sprintf("%.2f ms with %s", values[i], count(n)))
	}
	return strings.Join(parts, ", ")
}
