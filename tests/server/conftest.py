"""What a client carries between requests is bound to its token, so those tests have a team of callers."""

from tests.http.conftest import team as team
