// SPDX-License-Identifier: MPL-2.0

package canonical

import (
	"encoding/json"
	"testing"
)

// FuzzStrings compares with encoding/json.
func FuzzStrings(f *testing.F) {
	for _, s := range []string{"", "plain", `"`, `\`, "<>&", "\n", "\x7f", "ü", "\u2028", "\xff", "a\x00b", "😀"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendString([]byte("x"), s); string(got) != "x"+string(want) {
			t.Errorf("AppendString(%q): want %s, got %s", s, want, got[1:])
		}
		for _, text := range []string{string(want), `"` + s + `"`, s} {
			read := Read(text)
			got := read.String()
			if !read.Done() {
				continue
			}
			var decoded string
			if err := json.Unmarshal([]byte(text), &decoded); err != nil || decoded != got {
				t.Errorf("String of %q: got %q, encoding/json says %q, %v", text, got, decoded, err)
			}
		}
	})
}

func TestTextFailsForGood(t *testing.T) {
	text := Read(`{"a":"b","c":"d"}`)
	text.Must(`{"a":`)
	if got := text.String(); got != "b" || !text.OK() {
		t.Errorf("want b, got %q, OK %t", got, text.OK())
	}
	if text.Take(`,"x":`) || !text.OK() {
		t.Error("want what does not come next to be left alone")
	}
	text.Must(`,"x":`)
	if text.OK() || text.Take(`,"c":`) || text.String() != "" || text.Done() {
		t.Error("want everything to fail after something that had to come did not")
	}
	for rest, want := range map[string]bool{"": true, "\n": true, " ": false, "\n\n": false, "}": false} {
		if got := Read(rest).Done(); got != want {
			t.Errorf("Done with %q left: want %t, got %t", rest, want, got)
		}
	}
}

func TestInt(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "7": 7, "3600": 3600, "": -1, "x": -1, "-1": -1, "01": -1, "1.5": -1, "99999999999999999999": -1} {
		read := Read(text)
		if got := read.Int(); read.Done() != (want >= 0) || want >= 0 && got != want {
			t.Errorf("%q: want %d, got %d, done %t", text, want, got, read.Done())
		}
	}
}
