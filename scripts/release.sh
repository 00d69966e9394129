#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# "make release": writes all files of a release to dist/.
#
#   scripts/release.sh VERSION OS/ARCH...
#
# The bytes depend only on the source, the version, the time of the last commit
# (or $SOURCE_DATE_EPOCH) and the version of Go.
. "$(dirname "$0")/lib.sh"

usage="usage: scripts/release.sh VERSION OS/ARCH..., for example: scripts/release.sh v0.1.0 linux/amd64"
[ $# -ge 2 ] || die "$usage"
version=$1
shift
# No "+build", because the tag of an image cannot have one.
[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] ||
  die "VERSION=$version: must be a semantic version with a leading \"v\", like v0.1.0 or v0.2.0-rc.1"

program=vault-plugin-secrets-regcred
released=${program}_${version#v}
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) ||
    die "this is no clone with a commit: set SOURCE_DATE_EPOCH to the time of the files, in seconds since 1970"
fi
export SOURCE_DATE_EPOCH

# Keep the machine and the user out of the program. The commit is left out too:
# with it, a source archive, a clone with an extra file and a clone without tags
# would each give different bytes.
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -mod=readonly"
export GOAMD64=v1 GOARM64=v8.0 GOARM=6 GOPPC64=power8 GOFIPS140=off
unset GOEXPERIMENT

sums() { # prints the checksums of files, in the form of sha256sum
  if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

rm -rf dist
mkdir -p dist
images=()
for platform in "$@"; do
  os=${platform%/*} arch=${platform#*/} ending='' kind=tar.gz
  if [ "$os" = windows ]; then ending=.exe kind=zip; fi
  echo "building $released for $platform ..."
  binary=dist/${os}_$arch/$program$ending
  GOOS=$os GOARCH=$arch "${GO:-go}" build -ldflags="-s -w -X main.version=$version" -o "$binary" ./cmd/$program
  .bin/pack archive "dist/${released}_${os}_$arch.$kind" "$binary" LICENSE README.md CHANGELOG.md scripts/preflight.sh
  # The dependencies, which cyclonedx-gomod reads from the program itself.
  .bin/cyclonedx-gomod bin -json -std -noserial -notimestamp -version "$version" \
    -output "dist/${released}_${os}_$arch.cdx.json" "$binary" 2>/dev/null ||
    die "no bill of materials for $binary"
  case $platform in
    linux/arm) images+=("linux/arm/v$GOARM=$binary") ;;
    linux/*) images+=("$platform=$binary") ;;
  esac
done
if [ ${#images[@]} -gt 0 ]; then
  .bin/pack image dist/oci "dist/${released}_oci.tar" "$version" "$program" "${images[@]}"
fi

# SHA256SUMS lists the files for download, and is signed. SHA256SUMS.binaries
# lists the programs in the archives, one line for each platform, because Vault
# registers a plugin by the checksum of the program.
cd dist
sums ./*_*/"$program"* | sed 's#  \./#  #' >SHA256SUMS.binaries
sums "$released"* SHA256SUMS.binaries >SHA256SUMS
echo
cat SHA256SUMS.binaries SHA256SUMS
