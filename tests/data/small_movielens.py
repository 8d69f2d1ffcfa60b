"""A small data set in MovieLens layout: five ratings by two users of three movies."""

import io
import zipfile

RATINGS = (
    "userId,movieId,rating,timestamp\n"
    "2,20,4.0,300\n2,10,3.5,200\n1,10,5.0,100\n1,30,0.5,150\n2,30,2.0,400\n"
)
MOVIES = (
    "movieId,title,genres\n"
    '10,"American President, The (1995)",Comedy|Drama\n'
    "20,Rashômon (1950),(no genres listed)\n"
    "40,Unrated (2001),Drama\n"
)


def zipped(files: dict[str, str | bytes]) -> bytes:
    """A zip of the given files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()
