// SPDX-License-Identifier: MPL-2.0

package issuer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync/atomic"
)

const (
	// maxRead caps the bytes of all answers in one call of an [Issuer] together, so that
	// a list without an end has one. It is more than a registry sends in [CallTimeout].
	maxRead = 32 << 20

	// maxElements caps the elements of one list in an answer. In memory, small elements
	// take many times the bytes that they have in JSON.
	maxElements = 10_000
)

// allowance is how many bytes of answers one call may still read.
type allowance struct{ left atomic.Int64 }

type allowanceKey struct{}

var callTimeout = CallTimeout // more in tests

// forOneCall returns the context for one call of an [Issuer]: with [CallTimeout], and
// with an allowance that all requests of the call share.
func forOneCall(ctx context.Context) (context.Context, context.CancelFunc) {
	all := &allowance{}
	all.left.Store(maxRead)
	return context.WithTimeout(context.WithValue(ctx, allowanceKey{}, all), callTimeout)
}

// limited returns the body of an answer, whose bytes count against the allowance of the
// call that the context is for. Without one, it returns the body as it is.
func limited(ctx context.Context, body io.ReadCloser) io.ReadCloser {
	if all, ok := ctx.Value(allowanceKey{}).(*allowance); ok {
		return &limitedBody{body, all}
	}
	return body
}

type limitedBody struct {
	io.ReadCloser
	all *allowance
}

// Read implements [io.Reader].
func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.all.left.Add(-int64(n)) < 0 {
		return 0, Malformedf("the answers to one call have more than %d bytes in total; a list without an end, or with more entries than the engine reads", maxRead)
	}
	return n, err
}

// List is a list in the JSON of an answer. Decoding one with more than 10,000 elements
// is an error.
type List[T any] []T

// UnmarshalJSON implements [json.Unmarshaler].
func (l *List[T]) UnmarshalJSON(text []byte) error {
	*l = nil
	elements := json.NewDecoder(bytes.NewReader(text))
	if start, err := elements.Token(); err != nil || start == nil {
		return err // null is an empty list
	} else if start != json.Delim('[') {
		return errors.New("not a list")
	}
	for elements.More() {
		if len(*l) == maxElements {
			return Malformedf("the answer has a list of more than %d entries", maxElements)
		}
		var element T
		if err := elements.Decode(&element); err != nil {
			return err
		}
		*l = append(*l, element)
	}
	return nil
}
